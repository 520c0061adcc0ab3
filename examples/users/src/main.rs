use factum::prelude::*;

#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
enum UserEvent {
    Registered {
        #[tag]
        email: String,
        name: String,
    },
}

struct Register {
    id: String,
    email: String,
    name: String,
}
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("this e-mail is taken")]
struct EmailTaken;
impl Decide for Register {
    type Models = Tagged;
    type Error = EmailTaken;
    fn models(&self) -> Tagged {
        Tagged::with(format!("email:{}", self.email.to_lowercase()))
    }
    fn decide(&self, email: &Tagged) -> Result<Writes, EmailTaken> {
        refuse_if(email.exists(), EmailTaken)?;
        let event = UserEvent::Registered { email: self.email.to_lowercase(), name: self.name.clone() };
        Ok(Writes::to_stream(format!("user-{}", self.id), [event]))
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
        let id = factum::EventId::new().to_string();
        let done = factum.decide(Register { id, email, name }).await?;
        users.wait_for(&done).await?; // read your own write
    }
    for (id, user) in users.all().await? {
        println!("{id}: {user:?}");
    }
    Ok(())
}
