//! What a folder's broker is known by, for good: its ports and its password.

use std::fs;
use std::io;

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::folder::Owned;
use crate::ports::Ports;

pub(crate) const USER: &str = "relay";

const SECRET_LENGTH: usize = 32;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    #[serde(flatten)]
    pub(crate) ports: Ports,
    pub(crate) password: String,
}

impl Identity {
    pub(crate) fn new(ports: Ports) -> Self {
        Self {
            ports,
            password: secret(),
        }
    }

    /// What the first start in this folder chose, or `None` if there was none.
    pub(crate) fn load(folder: &Owned) -> Result<Option<Self>, Error> {
        let path = folder.identity();
        match fs::read(&path) {
            Ok(bytes) => match parse(&bytes) {
                Ok(identity) => Ok(Some(identity)),
                Err(problem) => Err(Error::BadIdentity { path, problem }),
            },
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("read", path)(error)),
            Err(_) if folder.data().exists() => Err(Error::LostIdentity { path }),
            Err(_) => Ok(None),
        }
    }

    pub(crate) fn save(&self, folder: &Owned) -> Result<(), Error> {
        let path = folder.identity();
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::BadIdentity {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        folder.write(&path, &text)
    }

    pub(crate) fn amqp_url(&self) -> String {
        let Self { ports, password } = self;
        format!("amqp://{USER}:{password}@127.0.0.1:{}/%2f", ports.amqp)
    }
}

/// Letters and digits, so that it needs no escaping in a URL or a file of settings.
pub(crate) fn secret() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), SECRET_LENGTH)
}

fn parse(bytes: &[u8]) -> Result<Identity, String> {
    let identity: Identity = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Identity { ports, password } = &identity;
    if !ports.are_usable() {
        return Err("the three ports must differ, and none may be 0".to_owned());
    }
    if password.is_empty() || !password.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("`password` must be letters and digits".to_owned());
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(text.as_bytes()).err().unwrap()
    }

    #[test]
    fn what_is_written_can_be_read() {
        let text = r#"{"amqp_port":1,"dist_port":2,"epmd_port":3,"password":"abc"}"#;
        let identity = parse(text.as_bytes()).unwrap();
        assert_eq!(identity.amqp_url(), "amqp://relay:abc@127.0.0.1:1/%2f");
        assert_eq!(serde_json::to_string(&identity).unwrap(), text);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert!(problem("hello").contains("line 1"));
        assert!(problem(r#"{"password":"a"}"#).contains("amqp_port"));
        let ports = r#""amqp_port":1,"dist_port":2"#;
        assert!(problem(&format!(r#"{{{ports},"epmd_port":2,"password":"a"}}"#)).contains("differ"));
        assert!(problem(&format!(r#"{{{ports},"epmd_port":3,"password":"a\nb"}}"#)).contains("password"));
        assert!(problem(&format!(r#"{{{ports},"epmd_port":99999,"password":"a"}}"#)).contains("u16"));
    }

    #[test]
    fn secrets_differ_and_need_no_escaping() {
        assert_ne!(secret(), secret());
        assert!(secret().bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
