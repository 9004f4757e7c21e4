//! HTTPS in front of a receiver, with a certificate that is good or bad in one way.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::{AsyncWriteExt, copy, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::{self, sign::any_supported_type};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
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

    /// One that only itself vouches for, as `openssl req -x509` makes it: that of an authority.
    pub fn self_signed_authority(host: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::new(&params.self_signed(&key).unwrap(), key)
    }

    /// The same certificate as if it were of X.509 version 1; nobody's signature fits any more.
    ///
    /// # Panics
    /// It says no version.
    #[must_use]
    pub fn of_version_1(mut self) -> Self {
        const VERSION_3: [u8; 5] = [0xa0, 3, 2, 1, 2];
        let mut der = self.certificate.to_vec();
        let at = der.windows(5).position(|bytes| bytes == VERSION_3);
        der[at.expect("a version") + 4] = 0;
        self.certificate = der.into();
        self
    }

    fn new(certificate: &rcgen::Certificate, key: KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            key,
        }
    }

    fn config(&self, manner: TlsManner) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let key = any_supported_type(&key).unwrap();
        let certified = CertifiedKey::new(vec![self.certificate.clone()], key);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match manner {
            TlsManner::Proper | TlsManner::Abrupt => builder.with_no_client_auth(),
            TlsManner::WantsCertificate => {
                let mut roots = RootCertStore::empty();
                roots.add(self.certificate.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
    }
}

/// The manner in which a server speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsManner {
    /// As it should.
    Proper,
    /// It ends connections without a word (`close_notify`), as many do.
    Abrupt,
    /// It takes none without a client's certificate.
    WantsCertificate,
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
        Self::start_as(TlsManner::Proper, certificate, receiver).await
    }

    /// The same, in this manner.
    pub async fn start_as(manner: TlsManner, certificate: &Certificate, receiver: &Receiver) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(certificate.config(manner)));
        let end = CancellationToken::new();
        let serving = serve(listener, acceptor, receiver.addr(), manner);
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

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, receiver: SocketAddr, manner: TlsManner) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("the front accepts");
        let acceptor = acceptor.clone();
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let mut client = acceptor.accept(stream).await?; // many a client refuses the certificate
            let mut behind = TcpStream::connect(receiver).await?;
            match manner {
                TlsManner::Abrupt => end_abruptly(client, behind).await,
                _ => copy_bidirectional(&mut client, &mut behind).await.map(drop),
            }
        });
    }
}

/// Ends the connection as soon as the receiver does, and says nothing of it.
async fn end_abruptly(client: TlsStream<TcpStream>, mut behind: TcpStream) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_receiver, mut to_receiver) = behind.split();
    let requests = async {
        let _ = copy(&mut from_client, &mut to_receiver).await;
        std::future::pending::<()>().await;
    };
    let answers = async {
        copy(&mut from_receiver, &mut to_client).await?;
        to_client.flush().await
    };
    tokio::select! {
        () = requests => Ok(()),
        ended = answers => ended,
    }
}
