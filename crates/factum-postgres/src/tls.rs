//! TLS: what a URL says about it, and what goes wrong.

use std::{fmt::Write as _, io, path::PathBuf, sync::Arc};

use factum::{Error, Result};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// What the URL says: `sslmode` and `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) mode: SslMode,
    trust: Trust,
}

/// Whom to believe to be the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trust {
    /// Anybody: against those who listen, not against those who interfere.
    Anybody,
    /// Who has a certificate for its name, of an authority that this machine trusts.
    System,
    /// Who has a certificate for its name, of an authority in this file.
    File(PathBuf),
}

impl Tls {
    /// Takes out of a URL what concerns TLS, which the driver knows only in part.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a mode that there is not, or an authority that would not be looked at.
    pub(crate) fn split(url: &str) -> Result<(String, Self)> {
        let (mut mode, mut file) = (None, None);
        let mut keep = |part: &str| {
            if let Some(value) = part.strip_prefix("sslmode=") {
                mode = Some(value.to_owned());
            } else if let Some(value) = part.strip_prefix("sslrootcert=") {
                file = Some(value.to_owned());
            } else {
                return true;
            }
            false
        };
        // As the driver reads it: up to the first `@` stand a name and a password, which may have any other sign in them.
        let behind = |rest: &str| rest.split_once('@').map_or(0, |(credentials, _)| credentials.len());
        let rest = match ["postgres://", "postgresql://"].iter().find_map(|prefix| url.strip_prefix(prefix)) {
            Some(rest) => match rest[behind(rest)..].split_once('?') {
                Some((_, query)) => {
                    let kept: Vec<&str> = query.split('&').filter(|part| keep(part)).collect();
                    format!("{}{}", &url[..url.len() - query.len()], kept.join("&"))
                }
                None => url.to_owned(),
            },
            // `host=… dbname=…`
            None => url.split_whitespace().filter(|part| keep(part)).collect::<Vec<_>>().join(" "),
        };
        let file = file.map(|file| if url.contains("://") { decoded(&file) } else { file });
        Ok((rest.trim_end_matches('?').to_owned(), Self::of(mode.as_deref(), file)?))
    }

    fn of(mode: Option<&str>, file: Option<String>) -> Result<Self> {
        let tls = |mode, trust| Ok(Self { mode, trust });
        let refused = |what: String, why: &str| Err(Error::invalid(what, why));
        match (mode, file) {
            (None | Some("require" | "verify-full"), Some(file)) => {
                tls(SslMode::Require, Trust::File(file.into()))
            }
            (Some("require" | "verify-full"), None) => tls(SslMode::Require, Trust::System),
            (Some(mode @ ("disable" | "prefer" | "no-verify")), Some(_)) => refused(
                format!("`sslmode={mode}` beside `sslrootcert` in the URL of PostgreSQL"),
                "it would not look at that file; say `sslmode=verify-full`",
            ),
            (None | Some("prefer"), None) => tls(SslMode::Prefer, Trust::Anybody),
            (Some("no-verify"), None) => tls(SslMode::Require, Trust::Anybody),
            (Some("disable"), None) => tls(SslMode::Disable, Trust::Anybody),
            (Some(other), _) => refused(
                format!("`sslmode={other}` in the URL of PostgreSQL"),
                "it is `verify-full` or `require` (TLS, and the server must prove who it is), `no-verify` (TLS with anybody), `prefer` (TLS with anybody, if the server has it) or `disable`",
            ),
        }
    }

    /// # Errors
    /// [`Error::InvalidInput`] if there is no authority to trust.
    pub(crate) fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid("TLS", error.to_string()))?;
        let config = match self.roots()? {
            Some(roots) => config.with_root_certificates(roots),
            None => config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        };
        Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
    }

    fn roots(&self) -> Result<Option<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        match &self.trust {
            Trust::Anybody => return Ok(None),
            Trust::System => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    let mut why =
                        "none is on this machine; name one by `sslrootcert=FILE` in the URL".to_owned();
                    for error in found.errors {
                        // Writing to a string cannot fail.
                        let _ = write!(why, " ({error})");
                    }
                    return Err(Error::invalid("the authorities to trust for TLS", why));
                }
            }
            Trust::File(path) => {
                let unreadable =
                    |why: String| Error::invalid(format!("`sslrootcert={}`", path.display()), why);
                let certificates = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| {
                        unreadable(format!("it cannot be read as certificates in PEM: {error}"))
                    })?;
                for certificate in certificates {
                    roots
                        .add(certificate)
                        .map_err(|error| unreadable(format!("a certificate in it is none: {error}")))?;
                }
                if roots.is_empty() {
                    return Err(unreadable("there is no certificate in it".to_owned()));
                }
            }
        }
        Ok(Some(roots))
    }
}

/// `%2F` and the like. What is none stays as it is.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Takes every certificate: for those who have not asked that it be looked at.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What went wrong as a connection was made, and what to do about it, if it was TLS.
pub(crate) fn explain(error: &tokio_postgres::Error) -> Option<String> {
    // Of one that was there already, nobody knows what has happened.
    if !error.to_string().starts_with("error performing TLS handshake") {
        return None;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = within.and_then(|error| error.downcast_ref::<rustls::Error>()) {
            return Some(explain_handshake(tls));
        }
        if error.to_string() == "server does not support TLS" {
            let why = "it does not offer TLS, which the URL requires: switch `ssl` on at the server, or say `sslmode=disable` if the way there is safe";
            return Some(why.to_owned());
        }
        cause = error.source();
    }
    None
}

fn explain_handshake(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(problem) = error else {
        return format!("TLS with it failed ({error})");
    };
    match problem {
        // A bad signature is that of another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of no authority that is trusted here: name its authority by `sslrootcert=FILE` in the URL".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({problem}): connect by a name that is in it")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired ({problem}): renew it")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet ({problem}): look at this machine's clock")
        }
        other => format!("its certificate is not taken ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(url: &str) -> Option<(String, Tls)> {
        Tls::split(url).ok()
    }

    #[test]
    fn what_a_url_says_about_tls_is_taken_out_of_it() {
        let (require, prefer) = (SslMode::Require, SslMode::Prefer);
        let file = |path: &str| Trust::File(path.into());
        let cases = [
            ("postgres://a@b/c", "postgres://a@b/c", prefer, Trust::Anybody),
            ("postgres://a@b/c?sslmode=require", "postgres://a@b/c", require, Trust::System),
            (
                "postgres://a@b/c?x=1&sslmode=verify-full&y=2",
                "postgres://a@b/c?x=1&y=2",
                require,
                Trust::System,
            ),
            ("postgres://a@b/c?sslrootcert=/x%20y/ca.pem", "postgres://a@b/c", require, file("/x y/ca.pem")),
            ("postgres://a@b/c?sslmode=no-verify", "postgres://a@b/c", require, Trust::Anybody),
            ("host=b sslmode=verify-full sslrootcert=ca dbname=c", "host=b dbname=c", require, file("ca")),
            ("host=b sslmode=disable", "host=b", SslMode::Disable, Trust::Anybody),
        ];
        for (url, rest, mode, trust) in cases {
            assert_eq!(split(url), Some((rest.to_owned(), Tls { mode, trust })), "{url}");
        }
        for refused in [
            "postgres://a@b/c?sslmode=verify-ca",
            "postgres://a@b/c?sslmode=",
            "postgres://a@b/c?sslmode=prefer&sslrootcert=/ca.pem",
            "postgres://a@b/c?sslmode=no-verify&sslrootcert=/ca.pem",
        ] {
            assert_eq!(split(refused), None, "{refused}");
        }
        assert_eq!((decoded("%2Fa%"), decoded("%zz%41")), ("/a%".to_owned(), "%zzA".to_owned()));
    }
}
