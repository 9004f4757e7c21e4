use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}: choose another address by {option}{}", self.hint())]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The option that names it.
    pub option: &'static str,
    /// Why.
    pub source: io::Error,
}

impl BindError {
    fn hint(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => ", or port 0 for any free port",
            io::ErrorKind::AddrNotAvailable => ", one of this machine's own",
            io::ErrorKind::PermissionDenied => ", with a port from 1024",
            _ => "",
        }
    }
}

/// Listens on `address`, which `option` named, such as `--metrics-listen`.
///
/// # Errors
/// It is taken, or none of this machine's.
pub async fn bind(address: SocketAddr, option: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError {
        address,
        option,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_named_with_what_to_do() {
        let held = bind("127.0.0.1:0".parse().unwrap(), "--listen").await.unwrap();
        let address = held.local_addr().unwrap();
        let error = bind(address, "--listen").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "could not listen on {address}: choose another address by --listen, or port 0 for any free port"
            )
        );
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }
}
