//! What a store says to those who may not, or cannot, come in; and how little a role needs.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use factum::{Append, Error, EventStore, EventStoreExt, NewEvent, Read, StreamName};
use factum_postgres::{Options, PostgresStore};
use tokio_postgres::Client;

async fn connect() -> Client {
    let (client, connection) = tokio_postgres::connect(&support::url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn refusal(url: &str, schema: &str) -> Error {
    let options = Options { schema: schema.to_owned(), ..Options::default() };
    PostgresStore::open(url, options).await.unwrap_err()
}

#[tokio::test]
async fn who_cannot_come_in_is_told_why_in_one_sentence() {
    let (url, schema) = (support::url(), support::fresh_schema());
    let elsewhere = url.replace("/postgres", "/nowhere");
    let nobody = url.replace("postgres@", "nobody_of_this_name@");
    let cases = [
        ("mysql://x".to_owned(), schema.as_str(), "postgres://user:password@host"),
        ("postgres://postgres@127.0.0.1:1/postgres".to_owned(), &schema, "refused"),
        (elsewhere, &schema, "`nowhere` on 127.0.0.1"),
        (nobody, &schema, "role \"nobody_of_this_name\" does not exist"),
        (url.clone(), "No Schema", "a-z, 0-9 and _"),
    ];
    for (url, schema, part) in cases {
        let error = refusal(&url, schema).await;
        let text = error.to_string();
        assert!(text.contains(part) && !text.contains('\n'), "{text} ({error:?})");
        assert_eq!(error.is_retryable(), part == "refused", "{text}");
    }
}

#[tokio::test]
async fn a_schema_of_a_newer_program_is_refused() {
    let (url, schema) = (support::url(), support::fresh_schema());
    let options = Options { schema: schema.clone(), ..Options::default() };
    PostgresStore::open(&url, options).await.unwrap();
    let newer = format!("INSERT INTO {schema}.migrations (number, name) VALUES (999, 'from the future')");
    connect().await.batch_execute(&newer).await.unwrap();
    let error = refusal(&url, &schema).await;
    assert!(error.to_string().contains("migration 999") && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_role_needs_no_more_than_the_page_says() {
    let (url, schema, hand) = (support::url(), support::fresh_schema(), connect().await);
    let options = Options { schema: schema.clone(), ..Options::default() };
    PostgresStore::open(&url, options.clone()).await.unwrap();
    let role = format!("r{schema}");
    hand.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let as_role = url.replace("postgres@", &format!("{role}@"));
    let error = refusal(&as_role, &schema).await;
    assert!(
        error.to_string().contains("permission denied") && error.to_string().contains("docs/postgres.md"),
        "{error}"
    );

    let grants = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role};"
    );
    hand.batch_execute(&grants).await.unwrap();
    let store = PostgresStore::open(&as_role, options).await.unwrap();
    let append = Append::to(StreamName::new("a-1").unwrap(), [NewEvent::json("Done", &1).unwrap()]);
    store.append(append).await.unwrap();
    assert_eq!(store.read_to_end(Read::all()).await.unwrap().len(), 1);
    drop(store);
    hand.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
