//! The rule of the smallest service, and that it holds when many ask at once.

include!("../src/main.rs");

fn registered(email: &str, name: &str) -> UserEvent {
    UserEvent::Registered { email: email.into(), name: name.into() }
}

fn register(email: &str, name: &str) -> Register {
    Register { id: name.to_lowercase(), email: email.into(), name: name.into() }
}

#[test]
fn an_e_mail_is_one_users_however_it_is_written() {
    use factum::testkit::given;
    let ada = || given(Writes::to_stream("user-1", [registered("ada@example.org", "Ada")]));
    ada().when(register("Ada@Example.org", "Eve")).then_refused(EmailTaken);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_for_one_e_mail_one_gets_it() {
    let factum = Factum::new(factum::MemoryStore::new());
    let users = factum.project(Users, factum_sqlite::Sqlite::memory().unwrap()).await.unwrap();
    let asked: Vec<_> = (0..64)
        .map(|n| {
            let factum = factum.clone();
            tokio::spawn(async move { factum.decide(register("ada@example.org", &n.to_string())).await })
        })
        .collect();
    let mut got = Vec::new();
    for answer in asked {
        match answer.await.unwrap() {
            Ok(done) => got.push(done),
            Err(failure) => assert_eq!(failure.refusal(), Some(&EmailTaken), "{failure}"),
        }
    }
    assert_eq!(got.len(), 1);
    users.wait_for(&got[0]).await.unwrap();
    assert_eq!(users.all().await.unwrap().len(), 1);
}
