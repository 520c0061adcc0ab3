//! What the domain layer promises on every store: a command with an id is done once, a name is given to one, and a state that was
//! read is still so.

use std::sync::Arc;

use factum::{
    Error, EventStoreExt, ExpectedRevision, Factum, Failure, Outcome, Query, Read, Result, Retention,
    StreamName, idempotency::command_tag, prelude::*,
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::lab::{Lab, Tried};

const RACERS: usize = 32;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum PurseEvent {
    Filled { coins: u64 },
    Spent { coins: u64 },
    Named { name: String },
}

use PurseEvent::{Filled, Named, Spent};

impl Event for PurseEvent {
    const CATEGORY: &'static str = "purse";

    fn tags(&self) -> Vec<String> {
        match self {
            Named { name } => vec![format!("name:{name}")],
            _ => vec![],
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Purse {
    coins: u64,
}

impl Aggregate for Purse {
    type Event = PurseEvent;

    fn apply(&mut self, event: &PurseEvent) {
        match event {
            Filled { coins } => self.coins += coins,
            Spent { coins } => self.coins -= coins,
            Named { .. } => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct TooPoor;

impl std::fmt::Display for TooPoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there are not enough coins")
    }
}

impl std::error::Error for TooPoor {}

#[derive(Clone, Serialize)]
struct Fill(u64);

impl Command<Purse> for Fill {
    type Error = TooPoor;

    fn decide(&self, _: &Purse) -> Result<Vec<PurseEvent>, TooPoor> {
        Ok(vec![Filled { coins: self.0 }])
    }
}

/// Coin by coin, so that there are several events; nothing to do for none.
#[derive(Clone, Serialize)]
struct Spend(u64);

impl Command<Purse> for Spend {
    type Error = TooPoor;

    fn decide(&self, purse: &Purse) -> Result<Vec<PurseEvent>, TooPoor> {
        refuse_if(purse.coins < self.0, TooPoor)?;
        Ok(vec![Spent { coins: 1 }; usize::try_from(self.0).unwrap_or(usize::MAX)])
    }
}

/// From the first purse that has enough into another: what it writes to depends on what it finds.
#[derive(Clone, Serialize)]
struct Collect {
    from: Vec<Id<Purse>>,
    to: Id<Purse>,
    coins: u64,
}

impl Decide for Collect {
    type Models = (Vec<Entity<Purse>>, Entity<Purse>);
    type Error = TooPoor;

    fn models(&self) -> Self::Models {
        (self.from.iter().map(Entity::of).collect(), Entity::of(&self.to))
    }

    fn decide(&self, (purses, _): &Self::Models) -> Result<Writes, TooPoor> {
        let rich = purses.iter().find(|purse| purse.state.coins >= self.coins).ok_or(TooPoor)?;
        let coins = self.coins;
        Ok(Writes::to(&rich.id, [Spent { coins }]).and(&self.to, [Filled { coins }]))
    }
}

/// Makes a new purse, with an id of its own each time that it is sent.
#[derive(Clone, Serialize)]
struct Make {
    #[serde(skip)]
    purse: Option<Id<Purse>>,
    coins: u64,
}

impl Decide for Make {
    type Models = ();
    type Error = TooPoor;

    fn models(&self) {}

    fn decide(&self, (): &()) -> Result<Writes, TooPoor> {
        let purse = self.purse.as_ref().ok_or(TooPoor)?;
        Ok(Writes::to(purse, [Filled { coins: self.coins }]))
    }
}

struct Name {
    purse: Id<Purse>,
    name: String,
}

impl Decide for Name {
    type Models = Tagged;
    type Error = TooPoor;

    fn models(&self) -> Tagged {
        Tagged::with(format!("name:{}", self.name))
    }

    fn decide(&self, name: &Tagged) -> Result<Writes, TooPoor> {
        refuse_if(name.exists(), TooPoor)?;
        Ok(Writes::to(&self.purse, [Named { name: self.name.clone() }]))
    }
}

fn factum(lab: &Lab) -> Factum {
    Factum::from_arc(lab.store.clone())
}

/// The answer to a command that must not be refused.
fn done<E: std::error::Error>(answer: Result<Done, Failure<E>>) -> Result<Done> {
    answer.map_err(|failure| match failure {
        Failure::Store(error) => error,
        Failure::Refused(refusal) => panic!("the command was refused: {refusal}"),
    })
}

async fn coins(factum: &Factum, purse: &Id<Purse>) -> Result<u64> {
    Ok(factum.load(purse).await?.state.coins)
}

async fn tagged_events(lab: &Lab, id: &str) -> Result<usize> {
    Ok(lab.store.read_to_end(Read::query(Query::tags([command_tag(id)])?)).await?.len())
}

/// All at the same time.
async fn race<T: Send + 'static, F>(count: usize, racer: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(count));
    let mut racers = JoinSet::new();
    for n in 0..count {
        let (barrier, racer) = (barrier.clone(), racer(n));
        racers.spawn(async move {
            barrier.wait().await;
            racer.await
        });
    }
    racers.join_all().await
}

pub async fn a_command_with_an_id_is_done_once(lab: Lab) -> Result<Tried> {
    let (factum, purse) = (factum(&lab), Purse::id("1"));
    done(factum.execute(&purse, Fill(10)).await)?;
    let first = done(factum.identified("spend-1").execute(&purse, Spend(3)).await)?;
    assert_eq!((first.repeated, first.attempts, first.events.len()), (false, 1, 3));
    // Whatever has happened since, and although it would be refused now.
    done(factum.execute(&purse, Spend(7)).await)?;
    for flow in [factum.clone(), factum.correlated("another flow").acting_as("somebody else")] {
        let again = done(flow.identified("spend-1").execute(&purse, Spend(3)).await)?;
        assert_eq!(again, Done { repeated: true, attempts: 0, ..first.clone() });
    }
    assert_eq!((coins(&factum, &purse).await?, tagged_events(&lab, "spend-1").await?), (0, 3));
    // Its events say which command it was, and they are found by its id.
    let record = &lab.of("purse-1").await?[1];
    let metadata = &record.metadata;
    assert_eq!(metadata.get("command").as_deref(), Some("Spend"));
    assert_eq!(metadata.causation_id().as_deref(), Some("spend-1"));
    // With another id it is another command.
    let other = factum.identified("spend-2").execute(&purse, Spend(3)).await;
    assert_eq!(other, Err(Failure::Refused(TooPoor)));
    Ok(Tried::Yes)
}

pub async fn an_id_is_for_one_command_only(lab: Lab) -> Result<Tried> {
    let (factum, purse) = (factum(&lab), Purse::id("1"));
    done(factum.identified("k").execute(&purse, Fill(10)).await)?;
    let k = factum.identified("k");
    let answers = [
        k.execute(&purse, Fill(11)).await,
        k.execute(&purse, Spend(10)).await,
        k.execute(&Purse::id("2"), Fill(10)).await,
        k.decide(Collect { from: vec![purse.clone()], to: Purse::id("2"), coins: 1 }).await,
    ];
    for answer in answers {
        let Err(Failure::Store(error)) = answer else { panic!("it must be an error: {answer:?}") };
        assert!(matches!(error, Error::InvalidInput { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::No);
        assert!(error.to_string().starts_with("the command id `k`: "), "{error}");
        assert!(error.to_string().contains("`Fill` had it before"), "{error}");
    }
    assert_eq!(lab.all().await?.len(), 1);
    for (id, why) in
        [("", "it is empty"), ("a\nb", "control character"), (&*"x".repeat(249), "longer than 248")]
    {
        let Err(Failure::Store(error)) = factum.identified(id).execute(&purse, Fill(1)).await else {
            panic!("{id:?} is no id")
        };
        assert!(error.to_string().contains(why), "{error}");
    }
    done(factum.identified("x".repeat(248)).execute(&purse, Fill(1)).await)?;
    Ok(Tried::Yes)
}

pub async fn of_racing_commands_with_one_id_one_is_done(lab: Lab) -> Result<Tried> {
    let (factum, purse) = (factum(&lab), Purse::id("1"));
    done(factum.execute(&purse, Fill(20)).await)?;
    for round in 0..5u64 {
        // Others spend meanwhile, so that the racers are also stopped by what is not theirs; and after each round there is too
        // little for another: who comes too late must find what was done, and not be refused.
        let answers = race(RACERS, |n| {
            let (factum, purse) = (factum.clone(), purse.clone());
            async move {
                match n {
                    0 => (false, done(factum.execute(&purse, Fill(1)).await)),
                    _ => {
                        (true, done(factum.identified(format!("r{round}")).execute(&purse, Spend(15)).await))
                    }
                }
            }
        });
        let mut places = Vec::new();
        let mut firsts = 0;
        for (identified, answer) in answers.await {
            let answer = answer?;
            if identified {
                firsts += u64::from(!answer.repeated);
                places.push(answer.events);
            }
        }
        places.dedup();
        assert_eq!((firsts, places.len()), (1, 1), "round {round}");
        done(factum.execute(&purse, Fill(14)).await)?;
        assert_eq!(coins(&factum, &purse).await?, 20, "round {round}");
    }
    Ok(Tried::Yes)
}

pub async fn of_racing_decisions_with_one_id_over_many_streams_one_is_done(lab: Lab) -> Result<Tried> {
    let factum = factum(&lab);
    let purses: Vec<_> = (0..4).map(|n| Purse::id(n.to_string())).collect();
    for purse in &purses {
        done(factum.execute(purse, Fill(10)).await)?;
    }
    for round in 0..5u64 {
        let to = Purse::id(format!("to-{round}"));
        // Each time others empty the purse that is looked at first, so that the decisions differ in where they write.
        let empty = &purses[usize::try_from(round).unwrap_or_default() % 3];
        let answers = race(RACERS, |n| {
            let (factum, from, to, empty) = (factum.clone(), purses.clone(), to.clone(), empty.clone());
            async move {
                if n == 0 {
                    let left = factum.load(&empty).await?.state.coins;
                    let _ = factum.execute(&empty, Spend(left)).await;
                    return Ok(None);
                }
                let collect = Collect { from, to, coins: 2 };
                Ok::<_, Error>(Some(done(factum.identified(format!("c{round}")).decide(collect).await)?))
            }
        });
        let mut firsts = 0;
        for answer in answers.await {
            if let Some(answer) = answer? {
                firsts += usize::from(!answer.repeated);
                assert_eq!(answer.events.len(), 2);
            }
        }
        assert_eq!((firsts, coins(&factum, &to).await?), (1, 2), "round {round}");
        assert_eq!(tagged_events(&lab, &format!("c{round}")).await?, 2);
    }
    Ok(Tried::Yes)
}

pub async fn of_different_commands_racing_for_one_id_one_is_done(lab: Lab) -> Result<Tried> {
    let factum = factum(&lab);
    let answers = race(RACERS, |n| {
        let factum = factum.clone();
        // Two of each.
        async move { factum.identified("k").execute(&Purse::id(format!("{}", n / 2)), Fill(1)).await }
    });
    let mut winners = 0;
    for answer in answers.await {
        match answer {
            Ok(_) => winners += 1,
            Err(Failure::Store(Error::InvalidInput { .. })) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((winners, lab.all().await?.len()), (2, 1));
    Ok(Tried::Yes)
}

pub async fn of_racing_commands_that_make_something_new_one_does(lab: Lab) -> Result<Tried> {
    let factum = factum(&lab);
    for round in 0..5u64 {
        let answers = race(RACERS, |n| {
            let factum = factum.clone();
            let make = Make { purse: Some(Purse::id(format!("{round}-{n}"))), coins: 1 };
            async move { done(factum.identified(format!("make-{round}")).decide(make).await) }
        });
        let (mut firsts, mut places) = (0, Vec::new());
        for answer in answers.await {
            let answer = answer?;
            firsts += usize::from(!answer.repeated);
            places.push(answer.events);
        }
        places.dedup();
        assert_eq!((firsts, places.len()), (1, 1), "round {round}");
    }
    assert_eq!(lab.all().await?.len(), 5);
    Ok(Tried::Yes)
}

pub async fn what_recorded_nothing_is_decided_anew(lab: Lab) -> Result<Tried> {
    let (factum, purse) = (factum(&lab), Purse::id("1"));
    let (poor, idle) = (factum.identified("poor"), factum.identified("idle"));
    assert_eq!(poor.execute(&purse, Spend(5)).await, Err(Failure::Refused(TooPoor)));
    assert_eq!(done(idle.execute(&purse, Spend(0)).await)?.events, []);
    done(factum.execute(&purse, Fill(5)).await)?;
    assert_eq!(done(idle.execute(&purse, Spend(0)).await)?.attempts, 1);
    // An id that nothing was recorded under is free for another command as well.
    assert!(!done(idle.execute(&purse, Fill(1)).await)?.repeated);
    assert!(!done(poor.execute(&purse, Spend(5)).await)?.repeated);
    assert!(done(poor.execute(&purse, Spend(5)).await)?.repeated);
    assert_eq!(coins(&factum, &purse).await?, 1);
    Ok(Tried::Yes)
}

pub async fn a_command_is_known_when_its_events_are_hidden(lab: Lab) -> Result<Tried> {
    let factum = factum(&lab);
    let stream = |purse: &Id<Purse>| StreamName::new(format!("purse-{purse}"));
    let (kept, cut, gone) = (Purse::id("kept"), Purse::id("cut"), Purse::id("gone"));
    for purse in [&kept, &cut, &gone] {
        done(factum.identified(format!("fill {purse}")).execute(purse, Fill(1)).await)?;
        done(factum.execute(purse, Fill(1)).await)?;
    }
    let after = Retention { truncate_before: Some(Revision(1)), ..Retention::default() };
    lab.store.set_retention(&stream(&cut)?, ExpectedRevision::Any, after).await?;
    lab.store.delete(&stream(&gone)?, ExpectedRevision::Any).await?;
    for purse in [&kept, &cut, &gone] {
        let again = done(factum.identified(format!("fill {purse}")).execute(purse, Fill(1)).await)?;
        assert_eq!((again.repeated, again.events.len()), (true, usize::from(*purse == kept)), "{purse}");
    }
    assert_eq!((lab.of("purse-cut").await?.len(), lab.of("purse-gone").await?.len()), (1, 0));
    Ok(Tried::Yes)
}

pub async fn command_ids_are_known_after_a_restart(lab: Lab) -> Result<Tried> {
    let purse = Purse::id("1");
    let first = done(factum(&lab).identified("k").execute(&purse, Fill(1)).await)?;
    let Some(lab) = lab.reopened().await? else {
        return Ok(Tried::Skipped("the harness cannot open the same data again"));
    };
    let again = done(factum(&lab).identified("k").execute(&purse, Fill(1)).await)?;
    assert_eq!((again.repeated, again.events), (true, first.events));
    Ok(Tried::Yes)
}

pub async fn a_name_is_given_to_one_of_many(lab: Lab) -> Result<Tried> {
    let factum = factum(&lab);
    for round in 0..4 {
        let answers = race(RACERS, |n| {
            let name = Name { purse: Purse::id(n.to_string()), name: format!("name-{round}") };
            let factum = factum.clone();
            async move { factum.decide(name).await }
        });
        let (mut given, mut refused) = (0, 0);
        for answer in answers.await {
            match answer {
                Ok(_) => given += 1,
                Err(Failure::Refused(TooPoor)) => refused += 1,
                Err(Failure::Store(error)) => return Err(error),
            }
        }
        assert_eq!((given, refused), (1, RACERS - 1), "round {round}");
    }
    assert_eq!(lab.all().await?.len(), 4);
    Ok(Tried::Yes)
}

pub async fn unchanged_can_be_required_without_writing(lab: Lab) -> Result<Tried> {
    let (factum, purse) = (factum(&lab), Purse::id("1"));
    let nobody = factum.load(&purse).await?;
    factum.require_unchanged(&nobody).await?;
    done(factum.execute(&purse, Fill(2)).await)?;
    assert!(factum.require_unchanged(&nobody).await.is_err_and(|error| error.is_conflict()));
    let (seen, events) = (factum.load(&purse).await?, lab.all().await?.len());
    done(factum.execute(&Purse::id("2"), Fill(1)).await)?;
    let head = lab.head().await?;
    assert_eq!(factum.require_unchanged(&seen).await?, head, "what happens elsewhere does not count");
    assert_eq!((lab.all().await?.len(), lab.head().await?), (events + 1, head), "nothing was written");
    done(factum.execute(&purse, Spend(1)).await)?;
    assert!(factum.require_unchanged(&seen).await.is_err_and(|error| error.is_conflict()));
    let seen = factum.load(&purse).await?;
    lab.store.delete(&StreamName::new("purse-1")?, ExpectedRevision::Any).await?;
    assert!(factum.require_unchanged(&seen).await.is_err_and(|error| error.is_conflict()), "it was deleted");
    Ok(Tried::Yes)
}
