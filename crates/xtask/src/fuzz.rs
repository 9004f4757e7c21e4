//! Random bytes for what parses strangers' bytes, guided by the code that they reach.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, root, step, target};

const FOLDER: &str = "tests/fuzz";

/// The stack that Rust gives a thread, in KiB: a parser that needs more would end a process.
const STACK_KIB: u32 = 2 * 1024;

/// The longest input, in bytes: as long as RabbitMQ's frames.
const LONGEST: u32 = 128 * 1024;

/// Fuzzes the named targets, or all, for so many minutes each. What it finds is kept in the target folder, and
/// becomes a test once it is copied to the target's folder in `tests/fuzz/corpus`.
pub(crate) fn fuzz(arguments: &[String]) -> Result<(), Failure> {
    let (names, minutes) = parse(arguments)?;
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        let all = all.join(", ");
        return Err(Failure::usage(format!(
            "there is no target `{unknown}`: there are {all}"
        )));
    }
    let chosen = if names.is_empty() { all } else { names };
    let cargo_fuzz = installed()?;
    for name in chosen {
        let found = target().join("fuzz").join(&name);
        fs::create_dir_all(found.join("corpus"))
            .map_err(|error| Failure::new(format!("cannot make {}: {error}", found.display())))?;
        let run = format!(
            "ulimit -s {STACK_KIB} && exec \"$0\" fuzz run --fuzz-dir {FOLDER} --target-dir \"$1\" -s none {name} \
             \"$2/corpus\" {FOLDER}/corpus/{name} -- -artifact_prefix=\"$2/\" -max_len={LONGEST} \
             -max_total_time={} -print_final_stats=1",
            minutes * 60
        );
        let mut command = Command::new("bash");
        command.args(["-c", &run]);
        command.arg(&cargo_fuzz).arg(target().join("fuzz")).arg(&found);
        // Its runtime works with the one toolchain there is, as long as no sanitizer is asked for.
        step(&format!("fuzz {name}"), command.current_dir(root()))?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<(Vec<String>, u32), Failure> {
    let (mut names, mut minutes) = (Vec::new(), 1);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument != "--minutes" {
            names.push(argument.clone());
            continue;
        }
        let given = arguments.next().map_or("nothing", String::as_str);
        minutes = given
            .parse()
            .ok()
            .filter(|minutes| (1..=1440).contains(minutes))
            .ok_or_else(|| Failure::usage(format!("--minutes must be from 1 to 1440, not {given}")))?;
    }
    Ok((names, minutes))
}

/// The targets, by the names of their files.
fn targets() -> Result<Vec<String>, Failure> {
    let folder = root().join(FOLDER).join("fuzz_targets");
    let files = fs::read_dir(&folder)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", folder.display())))?;
    let name = |file: PathBuf| Some(file.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = files.filter_map(|file| name(file.ok()?.path())).collect();
    names.sort();
    Ok(names)
}

/// The program `cargo-fuzz`, installed into the target folder where it is not there yet.
fn installed() -> Result<PathBuf, Failure> {
    let tools = target().join("tools");
    let program = tools.join("bin/cargo-fuzz");
    if !Path::new(&program).exists() {
        let mut install = crate::run::cargo(&["install", "--locked", "cargo-fuzz", "--root"]);
        step("install cargo-fuzz", install.arg(&tools))?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<(Vec<String>, u32), String> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        parse(&arguments).map_err(|failure| failure.reason)
    }

    #[test]
    fn targets_and_minutes_are_named() {
        assert_eq!(
            parsed(&["event", "--minutes", "10"]),
            Ok((vec!["event".to_owned()], 10))
        );
        assert!(parsed(&["--minutes", "0"]).unwrap_err().contains("1 to 1440"));
        assert!(parsed(&["--minutes"]).unwrap_err().contains("nothing"));
    }

    #[test]
    fn every_target_has_inputs_to_begin_with() {
        let targets = targets().map_err(|failure| failure.reason).unwrap();
        assert!(targets.contains(&"message".to_owned()));
        for target in targets {
            let corpus = root().join(FOLDER).join("corpus").join(&target);
            assert!(corpus.read_dir().unwrap().next().is_some(), "{target}");
        }
    }
}
