//! What the tests with whole servers rest on: that servers can be killed, restarted, copied and promoted.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use support::cluster::Cluster;
use tokio_postgres::Client;

async fn connect(cluster: &Cluster) -> Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn rows(cluster: &Cluster) -> i64 {
    connect(cluster).await.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_server_can_be_killed_in_every_way_and_comes_back_with_what_it_had() {
    let Some(mut cluster) = Cluster::new(&[]) else { return };
    connect(&cluster).await.batch_execute("CREATE TABLE t (a integer)").await.unwrap();
    let ways: [fn(&mut Cluster); 4] =
        [Cluster::stop_fast, Cluster::stop_immediate, Cluster::kill, Cluster::kill_postmaster];
    for (n, end) in (1..).zip(ways) {
        connect(&cluster).await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        end(&mut cluster);
        assert!(!cluster.accepts());
        cluster.start();
        assert_eq!(rows(&cluster).await, n);
    }
}

#[tokio::test]
async fn a_standby_follows_until_it_is_promoted() {
    let Some(mut primary) = Cluster::new(&[]) else { return };
    connect(&primary)
        .await
        .batch_execute("CREATE TABLE t (a integer); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let standby = primary.standby();
    primary.kill();
    let refused = connect(&standby).await.batch_execute("INSERT INTO t VALUES (1)").await;
    assert!(refused.is_err(), "it only follows");
    standby.promote();
    connect(&standby).await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(rows(&standby).await, 2);
}
