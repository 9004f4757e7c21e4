//! Clients that others' generators make of the API's description, whole, and at work against a real relay.
//! Generators come in pinned versions from their registries.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use relay_testkit::shared_broker;
use relay_tests::{TOKEN, World};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

/// A relay, and a folder with what a client is made of.
struct Bench {
    world: World,
    folder: TempDir,
    description: Value,
}

impl Bench {
    /// Makes the folder with the files of `tests/clients/LANGUAGE`, and the relay's description.
    async fn start(language: &str) -> Self {
        let mut world = World::without_deliverer(shared_broker().await).await;
        world.add_recorder().await;
        let folder = TempDir::new().unwrap();
        let files = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("clients")
            .join(language);
        for file in fs::read_dir(files).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let description = world.api.json(Method::GET, "/v1/openapi.json", None).await;
        fs::write(folder.path().join("openapi.json"), description.to_string()).unwrap();
        Self {
            world,
            folder,
            description,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program in the folder to its good end; what it said.
    async fn run<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: &[A]) -> String {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(&self.folder)
            .env("RELAY_URL", self.world.api.url())
            .env("RELAY_TOKEN", TOKEN);
        let shown = format!("{command:?}");
        let ended = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap();
        let ended = ended.unwrap_or_else(|error| panic!("{shown}: {error}; `cargo xtask test` installs it"));
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(ended.status.success(), "{shown}: {}\n{said}", ended.status);
        said
    }

    /// The name and the tag of every operation.
    fn operations(&self) -> Vec<(&str, &str)> {
        let paths = self.description["paths"].as_object().unwrap().values();
        let operations = paths.flat_map(|path| path.as_object().unwrap().values());
        let named = operations.map(|operation| {
            let name = operation["operationId"].as_str().unwrap();
            (name, operation["tags"][0].as_str().unwrap())
        });
        named.collect()
    }
}

/// A program that a variable names, or the installed one.
fn installed(variable: &str, program: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| program.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_generated_in_python_is_whole_and_works() {
    let bench = Bench::start("python").await;
    bench
        .run(installed("RELAY_PYTHON", "python3"), &["-m", "venv", "venv"])
        .await;
    let install = "-m pip install --quiet --no-deps --disable-pip-version-check -r requirements.txt";
    let install: Vec<&str> = install.split(' ').collect();
    bench.run(bench.path("venv/bin/python"), &install).await;
    let generate =
        "generate --path openapi.json --output-path relay_client --meta none --config generator.yaml";
    let generate: Vec<&str> = generate.split(' ').collect();
    let generator = bench.path("venv/bin/openapi-python-client");
    let said = bench.run(generator, &generate).await;
    assert!(!said.to_ascii_lowercase().contains("warning"), "{said}");
    for (operation, tag) in bench.operations() {
        let module = bench.path(&format!("relay_client/api/{tag}/{operation}.py"));
        assert!(module.is_file(), "{operation} is missing: {said}");
    }
    let said = bench.run(bench.path("venv/bin/python"), &["use.py"]).await;
    assert_eq!(said.trim(), "all of it works");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_generated_in_typescript_is_whole_and_works() {
    let bench = Bench::start("typescript").await;
    let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
    let node = installed("RELAY_NODE", "node");
    bench.run(installed("RELAY_NPM", "npm"), &install).await;
    let generate = [
        "node_modules/openapi-typescript/bin/cli.js",
        "openapi.json",
        "-o",
        "schema.d.ts",
    ];
    bench.run(&node, &generate).await;
    let schema = fs::read_to_string(bench.path("schema.d.ts")).unwrap();
    for (operation, _) in bench.operations() {
        assert!(
            schema.contains(&format!("\n    {operation}: {{\n")),
            "{operation} is missing"
        );
    }
    let compile =
        "node_modules/typescript/bin/tsc --strict --module nodenext --target es2022 --lib es2022,dom use.ts";
    let compile: Vec<&str> = compile.split(' ').collect();
    bench.run(&node, &compile).await;
    let said = bench.run(&node, &["use.js"]).await;
    assert_eq!(said.trim(), "all of it works");
}
