//! The files in `deploy/`: what a person sets there reaches the programs.

use std::collections::BTreeSet;
use std::process::Command;

use relay_testkit::binary;

const PROGRAMS: [&str; 3] = ["relay-gateway", "relay-deliverer", "relay-recorder"];

/// The name of its container is that of each deliverer.
const SET_BY_COMPOSE: [&str; 1] = ["RELAY_DELIVERER_NAME"];

fn file(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The variables that a program's help names.
fn settings(name: &str) -> BTreeSet<String> {
    let help = Command::new(binary(name)).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let named = help.split("[env: ").skip(1);
    let named = named.filter_map(|rest| rest.split([']', '=']).next());
    named.map(str::to_owned).collect()
}

#[test]
fn every_setting_is_in_the_example_and_reaches_its_container() {
    let (example, compose) = (file("deploy/relay.env.example"), file("docker-compose.yml"));
    for name in PROGRAMS {
        let settings = settings(name);
        assert!(settings.contains("RELAY_AMQP_URL"), "{name}: {settings:?}");
        for setting in settings {
            if SET_BY_COMPOSE.contains(&setting.as_str()) {
                continue;
            }
            let in_compose = format!(" {setting}:");
            assert!(
                compose.contains(&in_compose),
                "{setting} of {name} is not in docker-compose.yml"
            );
            let is_given =
                compose.contains(&format!("{in_compose} ")) && !compose.contains(&format!("${{{setting}"));
            let in_example = [format!("#{setting}="), format!("\n{setting}=")];
            assert!(
                is_given || in_example.iter().any(|line| example.contains(line)),
                "{setting} of {name} is not in deploy/relay.env.example"
            );
        }
    }
}
