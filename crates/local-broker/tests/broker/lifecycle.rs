//! A broker starts, ends in every way there is, and is found again as it was.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::{env, fs};

use relay_local_broker::{Config, Error, LocalBroker};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::{Folder, config, greeting, port_of, until};

const OWNED_FOLDER: &str = "RELAY_TEST_OWNED_FOLDER";

#[tokio::test]
async fn a_stopped_broker_starts_again_with_the_same_url_and_leaves_nothing_behind() {
    let folder = Folder::new("stop");
    let broker = LocalBroker::start(folder.config()).await.unwrap();
    let url = broker.amqp_url().to_owned();
    assert_eq!(greeting(port_of(&url))[7..], [0, 10, 0, 10]);
    assert!(!folder.processes().is_empty());
    broker.stop().await.unwrap();
    assert_eq!(folder.processes(), Vec::<String>::new());

    let broker = LocalBroker::start(folder.config()).await.unwrap();
    assert_eq!(broker.amqp_url(), url);
    broker.stop().await.unwrap();
    assert_eq!(folder.processes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_broker_is_noticed_and_starts_again() {
    let folder = Folder::new("kill");
    let mut broker = LocalBroker::start(folder.config()).await.unwrap();
    let url = broker.amqp_url().to_owned();
    kill(broker.pid().unwrap()).await;
    let status = broker.exited().await.unwrap();
    assert!(!status.success(), "{status}");
    folder.until_nothing_runs().await;
    drop(broker);

    let mut broker = LocalBroker::start(folder.config()).await.unwrap();
    assert_eq!(broker.amqp_url(), url);
    broker.kill().await.unwrap();
    folder.until_nothing_runs().await;
    broker.kill().await.expect("killing it twice is no error");
}

#[tokio::test]
async fn a_dropped_broker_goes_and_its_successor_waits_for_that() {
    let folder = Folder::new("drop");
    let broker = LocalBroker::start(folder.config()).await.unwrap();
    let pid = broker.pid().unwrap();
    drop(broker);

    let broker = LocalBroker::start(folder.config()).await.unwrap();
    assert_ne!(broker.pid().unwrap(), pid);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_broker_whose_owner_is_killed_goes_with_it() {
    let folder = Folder::new("owner");
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", "lifecycle::owner", "--nocapture"])
        .env(OWNED_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut output = BufReader::new(owner.stdout.take().unwrap()).lines();
    while let Some(line) = output.next_line().await.unwrap() {
        if line.ends_with("owner is ready") {
            break;
        }
    }
    let processes = folder.processes();
    assert!(
        processes.iter().any(|process| process.contains("beam")),
        "{processes:?}"
    );
    assert!(
        processes.iter().any(|process| process.contains(" epmd ")),
        "{processes:?}"
    );

    owner.kill().await.unwrap();
    assert_eq!(owner.wait().await.unwrap().signal(), Some(9));
    folder.until_nothing_runs().await;
}

/// Not a test by itself: the other process of the one above.
#[tokio::test]
async fn owner() {
    if let Some(dir) = env::var_os(OWNED_FOLDER) {
        let mut broker = LocalBroker::start(config(dir.as_ref())).await.unwrap();
        println!("owner is ready");
        broker.exited().await.unwrap();
    }
}

#[tokio::test]
async fn a_cancelled_start_leaves_nothing_behind() {
    let folder = Folder::new("cancel");
    let start = LocalBroker::start(folder.config());
    tokio::select! {
        broker = start => panic!("started too early: {broker:?}"),
        () = until("the broker's VM runs", || match folder.processes() {
            processes if processes.iter().any(|process| process.contains("beam")) => Ok(()),
            processes => Err(processes.join("\n")),
        }) => {}
    }
    folder.until_nothing_runs().await;
}

#[tokio::test]
async fn brokers_that_start_at_once_do_not_meet() {
    let folders: Vec<_> = (0..3).map(|n| Folder::new(&format!("crowd {n}"))).collect();
    let starts = folders
        .iter()
        .map(|folder| tokio::spawn(LocalBroker::start(folder.config())));
    let mut urls = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        let broker = start.await.unwrap().unwrap();
        urls.push(port_of(broker.amqp_url()));
        broker.stop().await.unwrap();
    }
    urls.sort_unstable();
    urls.dedup();
    assert_eq!(urls.len(), folders.len());
}

/// The server here first waits until its port is taken, and gives up, as RabbitMQ then does.
#[tokio::test]
async fn a_first_start_exchanges_ports_that_are_taken_meanwhile() {
    let folder = Folder::new("exchange");
    let server = folder.wrapper(
        r#"if ! [ -e "$HOME/port" ]; then
            echo "$RABBITMQ_NODE_PORT" >"$HOME/port.new"
            mv "$HOME/port.new" "$HOME/port"
            until [ -e "$HOME/taken" ]; do sleep 0.1; done
            exit 1
        fi"#,
    );
    let start = tokio::spawn(LocalBroker::start(Config {
        server: Some(server),
        ..folder.config()
    }));
    until("the server is told its port", || {
        fs::metadata(folder.file("port"))
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await;
    let port = fs::read_to_string(folder.file("port"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    fs::write(folder.file("taken"), "").unwrap();

    let broker = start.await.unwrap().unwrap();
    assert_ne!(port_of(broker.amqp_url()), port);
    assert_eq!(port_of(broker.amqp_url()), folder.port("amqp_port"));
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_has_one_broker() {
    let folder = Folder::new("one");
    let broker = LocalBroker::start(folder.config()).await.unwrap();
    let error = LocalBroker::start(folder.config()).await.unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert_eq!(greeting(port_of(broker.amqp_url()))[7..], [0, 10, 0, 10]);
    broker.stop().await.unwrap();
}

#[tokio::test]
async fn others_cannot_read_what_is_secret() {
    let folder = Folder::new("secret");
    let broker = LocalBroker::start(folder.config()).await.unwrap();
    let password = broker.amqp_url()[13..45].to_owned();
    assert!(!format!("{broker:?}").contains(&password));
    broker.stop().await.unwrap();

    assert_eq!(mode(&folder, ""), 0o700);
    for secret in ["broker.json", "rabbitmq.conf", ".erlang.cookie"] {
        assert_eq!(mode(&folder, secret) & 0o077, 0, "{secret}");
    }
}

fn mode(folder: &Folder, name: &str) -> u32 {
    fs::metadata(folder.file(name)).unwrap().permissions().mode() & 0o777
}

async fn kill(pid: u32) {
    let command = format!("kill -KILL {pid}");
    let status = Command::new("sh").args(["-c", &command]).status().await.unwrap();
    assert!(status.success());
}
