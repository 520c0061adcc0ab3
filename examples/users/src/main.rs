use factum::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum UserEvent {
    Registered { email: String, name: String },
}
impl Event for UserEvent {
    const CATEGORY: &'static str = "user";
    fn tags(&self) -> Vec<String> {
        let Self::Registered { email, .. } = self;
        vec![format!("email:{email}")]
    }
}
struct Email(String, bool); // whether it is taken
impl Model for Email {
    type Event = UserEvent;
    fn query(&self) -> factum::Result<Query> {
        UserEvent::query()?.tag(&format!("email:{}", self.0))
    }
    fn apply(&mut self, _: &Recorded<UserEvent>) {
        self.1 = true;
    }
}

struct Register(String, String); // an e-mail, a name
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("this e-mail is taken")]
struct EmailTaken;
impl Decide for Register {
    type Models = Email;
    type Error = EmailTaken;
    fn models(&self) -> Email {
        Email(self.0.to_lowercase(), false)
    }
    fn decide(&self, Email(email, taken): &Email) -> Result<Writes, EmailTaken> {
        refuse_if(*taken, EmailTaken)?;
        let event = UserEvent::Registered { email: email.clone(), name: self.1.clone() };
        Ok(Writes::to_stream(format!("user-{}", factum::EventId::new()), [event]))
    }
}
struct Users; // a read model: one row per user
impl Projection for Users {
    const NAME: &'static str = "users";
    type Event = UserEvent;
    type Row = UserEvent;
    fn evolve(&self, _: Option<UserEvent>, registered: &Recorded<UserEvent>) -> Option<UserEvent> {
        Some(registered.event.clone())
    }
}
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let factum = Factum::new(factum_log::LogStore::open("data")?);
    let users = factum.project(Users, factum_sqlite::Sqlite::open("read.db")?).await?;
    let mut words = std::env::args().skip(1);
    if let (Some(email), Some(name)) = (words.next(), words.next()) {
        users.wait_for(&factum.decide(Register(email, name)).await?).await?;
    }
    for (id, user) in users.all().await? {
        println!("{id}: {user:?}");
    }
    Ok(())
}
