use std::os::unix::process::ExitStatusExt;

use super::*;

fn sh(script: &str) -> Process {
    Process::spawn_path(Path::new("/bin/sh"), &[("RELAY_X", "y")], &["-c", script])
}

#[tokio::test]
async fn both_outputs_and_the_exit_status_are_kept() {
    let process = sh("echo out $RELAY_X; echo err >&2; printf unfinished; exit 3");
    assert_eq!(process.wait_exit().await.code(), Some(3));
    let mut lines = process.lines();
    lines.sort();
    assert_eq!(lines, ["err", "out y", "unfinished"]);
}

#[tokio::test]
async fn a_line_is_waited_for_while_the_process_runs() {
    let process = sh("echo starting; echo listening on 4711; exec sleep 600");
    assert_eq!(process.wait_for_output("4711").await, "listening on 4711");
    let line = process.wait_for_line(|line| line.starts_with("start")).await;
    assert_eq!(line, "starting");
    assert_eq!(process.exit_status(), None);
}

#[tokio::test]
#[should_panic(expected = "sh ended (exit status: 1) without the output \"ready\"")]
async fn a_process_that_ended_is_not_waited_for() {
    sh("echo no luck; exit 1").wait_for_output("ready").await;
}

#[tokio::test]
async fn terminate_asks_and_kill_9_does_not() {
    let polite = sh("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    polite.wait_for_output("up").await;
    polite.terminate();
    assert!(polite.wait_exit().await.success());
    assert!(polite.output().contains("bye"));
    polite.terminate();

    let deaf = sh("trap '' TERM; echo up; while :; do sleep 0.01; done");
    deaf.wait_for_output("up").await;
    deaf.kill_9();
    assert_eq!(deaf.exit_status().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_failing_test_shows_the_output() {
    if std::env::var_os("RELAY_TESTKIT_FAIL").is_some() {
        let process = sh("echo words from below; exit 4");
        process.wait_exit().await;
        panic!("as the outer test wants it");
    }
    let this = std::env::current_exe().unwrap();
    let name = "process::tests::a_failing_test_shows_the_output";
    let inner = Process::spawn_path(&this, &[("RELAY_TESTKIT_FAIL", "1")], &["--exact", name]);
    assert_eq!(inner.wait_exit().await.code(), Some(101));
    let output = inner.output();
    assert!(output.contains("words from below"), "{output}");
    assert!(output.contains("exit status: 4"), "{output}");
}

#[test]
fn dropping_kills_without_any_runtime() {
    let process = sh("exec sleep 600");
    let alive = PathBuf::from(format!("/proc/{}", process.pid()));
    assert!(alive.exists());
    drop(process);
    assert!(!alive.exists());
}

#[tokio::test]
async fn a_killed_owner_takes_its_processes_along() {
    if std::env::var_os("RELAY_TESTKIT_OWNS").is_some() {
        let process = sh("exec sleep 600");
        println!("owns {}", process.pid());
        std::future::pending::<()>().await;
    }
    let this = std::env::current_exe().unwrap();
    let name = "process::tests::a_killed_owner_takes_its_processes_along";
    let args = ["--exact", name, "--nocapture"];
    let owner = Process::spawn_path(&this, &[("RELAY_TESTKIT_OWNS", "1")], &args);
    let said = owner.wait_for_output("owns ").await;
    let stat = format!("/proc/{}/stat", said.rsplit(' ').next().unwrap());
    assert!(lives(&stat));
    owner.kill_9();
    wait_until("the end of what it owned", || async { !lives(&stat) }).await;
}

/// Some containers bury no orphans, so a dead process may stay.
fn lives(stat: &str) -> bool {
    std::fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z"))
}

#[test]
fn relay_variables_of_the_outside_are_removed() {
    let outside = ["RELAY_OLD", "PATH", "RELAY_X"].map(OsString::from);
    let command = command(Path::new("sh"), outside.into_iter(), &[("RELAY_X", "y")], &[]);
    let changed: Vec<_> = command.get_envs().collect();
    let [old, x] = ["RELAY_OLD", "RELAY_X"].map(OsStr::new);
    assert_eq!(changed, [(old, None), (x, Some(OsStr::new("y")))]);
}

#[test]
#[should_panic(expected = "cargo build --workspace --bins")]
fn a_missing_binary_says_how_to_build_it() {
    let port = 1.to_string();
    Process::spawn("relay-no-such-binary", &[("RELAY_PORT", &port)], &[]);
}
