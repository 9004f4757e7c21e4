//! TLS to endpoints, and what went wrong with it in words.

use std::sync::Arc;

use relay_event::Timestamp;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    OtherError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_platform_verifier::Verifier;
use webpki::EndEntityCert;

/// Trusts whom the system trusts.
///
/// # Errors
/// The system's root certificates cannot be loaded.
pub(crate) fn config() -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder();
    let system = Verifier::new(Arc::clone(builder.crypto_provider()))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Explains(system)))
        .with_no_client_auth())
}

/// The system's verifier, which tells a certificate that only itself vouches for from others of unknown issuers.
#[derive(Debug)]
struct Explains(Verifier);

/// A certificate that only itself vouches for.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is self-signed, and not trusted here")]
struct SelfSigned;

impl ServerCertVerifier for Explains {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match &error {
            Error::InvalidCertificate(refused)
                if may_be_self_signed(refused) && is_self_signed(end_entity) =>
            {
                CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
            }
            _ => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn may_be_self_signed(refused: &CertificateError) -> bool {
    match refused {
        CertificateError::UnknownIssuer => true,
        CertificateError::Other(other) => is(other, webpki::Error::CaUsedAsEndEntity),
        _ => false,
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.issuer() == certificate.subject())
}

fn is(other: &OtherError, error: webpki::Error) -> bool {
    other.0.downcast_ref::<webpki::Error>() == Some(&error)
}

/// An error in words that a person knows.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(refused) => certificate(refused),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what came is no TLS; the port may be one for http".to_owned()
        }
        Error::InvalidMessage(what) => format!("what came is no TLS ({what:?})"),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the server has neither TLS 1.2 nor 1.3".to_owned()
        }
        Error::PeerIncompatible(what) => {
            format!("the server and the relay have no way of TLS in common ({what:?})")
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a client certificate".to_owned()
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the server knows no host of that name".to_owned()
        }
        Error::AlertReceived(what) => format!("the server broke off the handshake ({what:?})"),
        error => error.to_string(),
    }
}

fn certificate(refused: &CertificateError) -> String {
    match refused {
        CertificateError::Expired => "the certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate expired at {}", time(*not_after))
        }
        CertificateError::NotValidYet => "the certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", time(*not_before))
        }
        CertificateError::UnknownIssuer => {
            "nobody who is trusted here has issued the certificate (unknown issuer)".to_owned()
        }
        CertificateError::NotValidForName => "the certificate is for another host".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let named: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let named = if named.is_empty() {
                "no host".to_owned()
            } else {
                named.join(", ")
            };
            format!("the certificate is for {named}, not for {}", expected.to_str())
        }
        CertificateError::Revoked => "the certificate was revoked".to_owned(),
        CertificateError::BadSignature => "the certificate's signature does not fit its issuer".to_owned(),
        CertificateError::BadEncoding => "the certificate cannot be read".to_owned(),
        CertificateError::Other(other) if is(other, webpki::Error::CaUsedAsEndEntity) => {
            "the certificate is that of an authority, and not of a server".to_owned()
        }
        CertificateError::Other(other) if is(other, webpki::Error::UnsupportedCertVersion) => {
            "the certificate is not of X.509 version 3".to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<SelfSigned>() {
            Some(own) => own.to_string(),
            None => format!("the certificate is not accepted: {other}"),
        },
        refused => format!("the certificate is not accepted: {refused}"),
    }
}

/// A name of a certificate as people write it: rustls says `DnsName("example.com")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn time(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000));
    millis.and_then(Timestamp::from_millis).map_or_else(
        || format!("{} s after 1970", time.as_secs()),
        |time| time.to_string(),
    )
}
