//! Certificates of a test's own, and processes that trust them.

use std::{path::PathBuf, process::Command};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// Where the second process of a test finds the server.
const URL: &str = "FACTUM_TEST_TLS_URL";

/// An authority, and what it has signed: a certificate for `localhost`.
pub(crate) struct Papers(TempDir);

impl Papers {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (params, key) =
            (CertificateParams::new(["localhost".to_owned()]).unwrap(), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &authority).unwrap();
        let papers = Self(tempfile::tempdir().unwrap());
        papers.write("authority", &authority.pem());
        papers.write("certificate", &certificate.pem());
        papers.write("key", &key.serialize_pem());
        papers
    }

    #[allow(clippy::disallowed_methods, reason = "a certificate is no data file of the product's")]
    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.file(name), content).unwrap();
    }

    /// The file with the `authority`, the `certificate` or the `key`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs this test again in a process that trusts the authority, and finds the server by [`trusted`].
    pub(crate) fn run_again(&self, test: &str, url: &str) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(URL, url)
            .env("SSL_CERT_FILE", self.file("authority"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The server that is to be trusted, if this is the process that does.
pub(crate) fn trusted() -> Option<String> {
    std::env::var(URL).ok()
}
