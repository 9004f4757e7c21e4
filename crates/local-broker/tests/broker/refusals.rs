//! What cannot work is refused at once, with what to do about it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use relay_local_broker::{Config, Error, LocalBroker};

use crate::support::Folder;

#[tokio::test]
async fn a_server_that_is_not_there() {
    let folder = Folder::new("no server");
    let config = Config {
        server: Some("/nowhere/rabbitmq-server".into()),
        ..folder.config()
    };
    let error = LocalBroker::start(config).await.unwrap_err().to_string();
    assert!(
        error.contains("RELAY_RABBITMQ_SERVER names /nowhere/rabbitmq-server"),
        "{error}"
    );
    assert!(!folder.path().exists(), "nothing is made for it");
}

#[tokio::test]
async fn a_server_that_ends_at_once() {
    let folder = Folder::new("bad server");
    let config = Config {
        server: Some("/bin/false".into()),
        ..folder.config()
    };
    let error = LocalBroker::start(config).await.unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    folder.until_nothing_runs().await;
}

#[tokio::test]
async fn settings_that_the_server_does_not_know() {
    let folder = Folder::new("bad settings");
    let config = Config {
        settings: "no.such.setting = 1".to_owned(),
        ..folder.config()
    };
    let error = LocalBroker::start(config).await.unwrap_err().to_string();
    assert!(error.contains("no.such.setting"), "{error}");
    assert!(
        error.contains(&folder.file("log").display().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_stays_silent() {
    let folder = Folder::new("silent");
    let config = Config {
        start_limit: Duration::from_millis(1),
        ..folder.config()
    };
    let error = LocalBroker::start(config).await.unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    assert_eq!(folder.processes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_file_of_ports() {
    let folder = Folder::new("garbage");
    fs::create_dir_all(folder.path()).unwrap();
    let file = folder.file("broker.json");
    fs::write(&file, "garbage").unwrap();
    let error = LocalBroker::start(folder.config()).await.unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "garbage",
        "nothing is changed"
    );
}

#[tokio::test]
async fn a_lost_file_of_ports() {
    let folder = Folder::new("lost");
    fs::create_dir_all(folder.file("data")).unwrap();
    let error = LocalBroker::start(folder.config()).await.unwrap_err();
    assert!(matches!(error, Error::LostIdentity { .. }), "{error}");
}

#[tokio::test]
async fn a_remembered_port_that_is_taken() {
    let folder = Folder::new("taken");
    let broker = LocalBroker::start(folder.config()).await.unwrap();
    broker.stop().await.unwrap();
    for name in ["amqp_port", "dist_port", "epmd_port"] {
        let port = folder.port(name);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let error = LocalBroker::start(folder.config()).await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("port {port} on 127.0.0.1 is taken")),
            "{error}"
        );
        assert!(error.contains(&format!("change `{name}` in ")), "{error}");
        assert!(error.contains("broker.json"), "{error}");
    }
}
