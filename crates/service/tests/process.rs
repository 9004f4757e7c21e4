//! A daemon as a real child process, with real signals: this test program runs itself again.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    io::{self, BufRead, BufReader, Lines, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
};

use clap::Parser;
use relay_service::{Context, ServiceArgs};
use serde_json::Value;

/// What the child does; without it, the child's test does nothing.
const PROGRAM: &str = "RELAY_SERVICE_TEST_PROGRAM";

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

/// Not a test of its own: the child process of those below.
#[test]
fn child() {
    let Ok(program) = std::env::var(PROGRAM) else {
        return;
    };
    // A task that panics would leave the process waiting for it, and the test too.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let args = Args::parse_from(["test-daemon"]);
    let ended = relay_service::run(
        "test-daemon",
        &["work"],
        &args.service,
        async |context: Context| {
            let broker = context.health.component("broker");
            match program.as_str() {
                "drains" => {
                    broker.ready();
                    context.health.begun("work");
                    context.shutdown.cancelled().await;
                    tracing::info!("drained");
                    Ok(())
                }
                "begins late" => {
                    broker.ready();
                    std::future::pending().await
                }
                "hangs" => std::future::pending().await,
                _ => Err(anyhow::anyhow!("connection refused").context("could not reach the broker")),
            }
        },
    );
    std::process::exit(i32::from(ended != ExitCode::SUCCESS));
}

struct Daemon {
    child: Child,
    log: Lines<BufReader<Box<dyn Read>>>,
}

impl Daemon {
    fn start(program: &str) -> Self {
        Self::start_at(program, "127.0.0.1:0")
    }

    fn start_at(program: &str, metrics: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(PROGRAM, program)
            .env("RELAY_METRICS_LISTEN", metrics)
            .env("RELAY_LOG_FORMAT", "json")
            .env_remove("RELAY_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Closes the log's pipe.
    fn stop_reading(&mut self) {
        self.log = lines(io::empty());
    }

    /// The next log line that says this.
    fn says(&mut self, message: &str) -> Value {
        let mut others = Vec::new();
        for line in self.log.by_ref() {
            let line = line.unwrap();
            let entry: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            if entry["message"].as_str().unwrap().starts_with(message) {
                return entry;
            }
            others.push(line);
        }
        panic!("it ended without saying {message:?}, but {others:#?}");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", self.child.id())])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(log: impl Read + 'static) -> Lines<BufReader<Box<dyn Read>>> {
    let log: Box<dyn Read> = Box::new(log);
    BufReader::new(log).lines()
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn address(started: &Value) -> SocketAddr {
    started["metrics"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_signal_drains_it() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Daemon::start("drains");
        let started = daemon.says("test-daemon starts");
        assert!(get(address(&started), "/live").contains("200 OK"));
        daemon.signal(signal);
        daemon.says("draining");
        daemon.says("drained");
        daemon.says("test-daemon ended");
        assert_eq!(daemon.exit_code(), Some(0));
    }
}

/// Its broker and store may be there long before it does its work.
#[test]
fn it_is_ready_once_its_parts_have_begun_and_not_before() {
    let mut late = Daemon::start("begins late");
    let address = address_of(&mut late);
    let mut answers = std::iter::repeat_with(|| get(address, "/ready"));
    let with_broker = answers
        .find(|answer| answer.contains("\"broker\":{\"ready\":true}"))
        .unwrap();
    assert!(with_broker.contains("503"), "{with_broker}");
    assert!(
        with_broker.contains("\"work\":{\"ready\":false,\"reason\":\"starting\"}"),
        "{with_broker}"
    );

    let mut prompt = Daemon::start("drains");
    let address = address_of(&mut prompt);
    while !get(address, "/ready").contains("200 OK") {
        std::thread::yield_now();
    }
}

fn address_of(daemon: &mut Daemon) -> SocketAddr {
    address(&daemon.says("test-daemon starts"))
}

#[test]
fn while_it_drains_it_lives_and_is_not_ready_and_a_second_signal_ends_it() {
    let mut daemon = Daemon::start("hangs");
    let address = address(&daemon.says("test-daemon starts"));
    daemon.signal("TERM");
    daemon.says("draining");
    assert!(get(address, "/live").contains("200 OK"));
    while !get(address, "/ready").contains("draining") {
        std::thread::yield_now();
    }
    daemon.signal("INT");
    assert_eq!(daemon.exit_code(), Some(130));
}

/// As under `2>&1 | head`: what it says then has nowhere to go, and must not stand in its way.
#[test]
fn a_signal_drains_it_when_nobody_reads_its_log_any_more() {
    let mut daemon = Daemon::start("drains");
    daemon.says("test-daemon starts");
    daemon.stop_reading();
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code(), Some(0));
}

#[test]
fn a_failure_is_said_once_with_its_causes() {
    let mut daemon = Daemon::start("fails");
    daemon.says("test-daemon starts");
    let failed = daemon.says("test-daemon failed");
    assert_eq!(
        failed["message"],
        "test-daemon failed: could not reach the broker: connection refused"
    );
    assert_eq!(failed["level"], "ERROR");
    assert_eq!(daemon.exit_code(), Some(1));
    assert!(daemon.log.next().is_none(), "nothing more is said");
}

#[test]
fn a_taken_address_ends_it_before_it_starts() {
    let mut first = Daemon::start("drains");
    let taken = address(&first.says("test-daemon starts")).to_string();
    let mut second = Daemon::start_at("drains", &taken);
    let failed = second.says("test-daemon failed");
    let expected = format!("could not listen on {taken}: choose another address by --metrics-listen");
    assert!(
        failed["message"].as_str().unwrap().contains(&expected),
        "{failed}"
    );
    assert_eq!(second.exit_code(), Some(1));
}
