//! HTTPS in front of a receiver, with a certificate that is good or bad in one way.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Receiver;

/// A certificate authority of a test's own.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A server's certificate and its key.
#[derive(Debug)]
pub struct Certificate {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// One that nobody trusts yet.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// What trusts it, as for `SSL_CERT_FILE`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a host name or address.
    pub fn certify(&self, host: &str) -> Certificate {
        self.sign(CertificateParams::new([host.to_owned()]).unwrap())
    }

    /// A certificate that was good until the year 2000.
    pub fn certify_expired(&self, host: &str) -> Certificate {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_after = date_time_ymd(2000, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate::new(&certificate, key)
    }
}

impl Certificate {
    /// One that only itself vouches for.
    pub fn self_signed(host: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        Self::new(&params.self_signed(&key).unwrap(), key)
    }

    fn new(certificate: &rcgen::Certificate, key: KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            key,
        }
    }

    fn config(&self) -> ServerConfig {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap()
    }
}

/// Takes TLS connections and hands what is in them to a receiver; ends when dropped.
#[derive(Debug)]
pub struct TlsFront {
    addr: SocketAddr,
    _end: DropGuard,
}

impl TlsFront {
    /// Listens on a free loopback port.
    pub async fn start(certificate: &Certificate, receiver: &Receiver) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(certificate.config()));
        let end = CancellationToken::new();
        let serving = serve(listener, acceptor, receiver.addr());
        let ended = end.clone();
        tokio::spawn(async move { ended.run_until_cancelled(serving).await });
        Self {
            addr,
            _end: end.drop_guard(),
        }
    }

    /// Where to POST.
    pub fn url(&self) -> String {
        format!("https://{}/hook", self.addr)
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, receiver: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("the front accepts");
        let acceptor = acceptor.clone();
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let mut client = acceptor.accept(stream).await?; // many a client refuses the certificate
            let mut behind = TcpStream::connect(receiver).await?;
            copy_bidirectional(&mut client, &mut behind).await
        });
    }
}
