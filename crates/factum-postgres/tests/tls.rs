//! TLS, against a server with a certificate of the test's own: what is encrypted, whom it believes, and what it says if not.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use factum::{Append, EventStore, NewEvent, StreamName};
use factum_postgres::PostgresStore;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::cluster::Cluster;

/// An authority, and what it has signed: a certificate for `localhost`.
struct Papers {
    authority: String,
    certificate: String,
    key: String,
}

impl Papers {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (params, key) =
            (CertificateParams::new(["localhost".to_owned()]).unwrap(), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &authority).unwrap();
        Self { authority: authority.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

#[allow(clippy::disallowed_methods, reason = "a certificate is no data file of the product's")]
fn file(cluster: &Cluster, name: &str, content: &str) -> PathBuf {
    let file = cluster.directory().join(name);
    std::fs::write(&file, content).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    cluster.give(&file);
    file
}

/// Makes the server offer TLS.
async fn switch_on(cluster: &Cluster, papers: &Papers) {
    let (certificate, key) =
        (file(cluster, "server.crt", &papers.certificate), file(cluster, "server.key", &papers.key));
    let hand = by_hand(cluster).await;
    for (name, value) in [("ssl_cert_file", &certificate), ("ssl_key_file", &key)] {
        hand.batch_execute(&format!("ALTER SYSTEM SET {name} = '{}'", value.display())).await.unwrap();
    }
    hand.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    hand.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let waited = async {
        while by_hand(cluster).await.query_one("SHOW ssl", &[]).await.unwrap().get::<_, &str>(0) != "on" {}
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap();
}

async fn by_hand(cluster: &Cluster) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Opens the store, appends, and tells whether the store's connections were encrypted.
async fn encrypted(cluster: &Cluster, url: &str) -> factum::Result<bool> {
    let store = PostgresStore::connect(url).await?;
    let append = Append::to(StreamName::new("a-1").unwrap(), [NewEvent::json("Done", &1).unwrap()]);
    store.append(append).await?;
    let look = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE a.application_name = 'factum factum' AND a.state = 'idle'";
    Ok(by_hand(cluster).await.query_one(look, &[]).await.unwrap().get(0))
}

async fn is_refused(cluster: &Cluster, url: &str, part: &str) {
    let error = encrypted(cluster, url).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(part) && !text.contains('\n') && !error.is_retryable(),
        "{url}: {text} ({error:?})"
    );
}

#[tokio::test]
async fn tls_is_what_the_url_says_and_who_is_not_believed_is_told_why() {
    let Some(cluster) = Cluster::new(&[]) else { return };
    let url = |host: &str, more: &str| cluster.url().replace("127.0.0.1", host) + "?" + more;
    // Before the server has it.
    for mode in ["sslmode=require", "sslmode=verify-full", "sslmode=no-verify"] {
        is_refused(&cluster, &url("localhost", mode), "does not offer TLS").await;
    }
    assert!(!encrypted(&cluster, &url("localhost", "sslmode=prefer")).await.unwrap());

    let (papers, others) = (Papers::new(), Papers::new());
    switch_on(&cluster, &papers).await;
    let trusted = format!("sslrootcert={}", file(&cluster, "authority.pem", &papers.authority).display());
    let other = format!("sslrootcert={}", file(&cluster, "other.pem", &others.authority).display());
    assert!(encrypted(&cluster, &cluster.url()).await.unwrap(), "where the server has it, it is used");
    assert!(encrypted(&cluster, &url("127.0.0.1", "sslmode=no-verify")).await.unwrap());
    assert!(!encrypted(&cluster, &url("127.0.0.1", "sslmode=disable")).await.unwrap());
    for mode in ["", "sslmode=require&", "sslmode=verify-full&"] {
        assert!(encrypted(&cluster, &url("localhost", &format!("{mode}{trusted}"))).await.unwrap(), "{mode}");
        let by_address = url("127.0.0.1", &format!("{mode}{trusted}"));
        is_refused(&cluster, &by_address, "its certificate is for another name").await;
        let of_another = url("localhost", &format!("{mode}{other}"));
        is_refused(&cluster, &of_another, "of no authority that is trusted here").await;
    }
    // The machine's own authorities do not know it either.
    is_refused(&cluster, &url("localhost", "sslmode=require"), "authorit").await;
    is_refused(&cluster, &url("localhost", "sslrootcert=/nowhere.pem"), "/nowhere.pem").await;
    let empty = format!("sslrootcert={}", file(&cluster, "empty.pem", "").display());
    is_refused(&cluster, &url("localhost", &empty), "no certificate in it").await;
    is_refused(&cluster, &url("localhost", "sslmode=verify-ca"), "verify-full").await;
}
