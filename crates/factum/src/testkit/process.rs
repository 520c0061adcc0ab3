//! given, when, then for process managers.

use std::collections::HashSet;

use super::{
    Given, Past, World, in_a_runtime,
    story::{Line, Story, category_of},
};
use crate::{
    append::Append,
    decision::Writes,
    error::{Error, Result},
    event::RecordedEvent,
    handler::Trouble,
    idempotency::short_name,
    position::Position,
    process::{Effect, ProcessManager, Rehearsal},
    time::Timestamp,
};

impl<Of> Given<Of> {
    /// What a process manager makes of it. It hears what is given as in production, and what it then asks for is recorded; but no
    /// command is given, so that a test says itself what came of it: by the events that follow, or by a refusal.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use factum::{Identified, Trouble, prelude::*, testkit::{START, SUBJECT, given}};
    /// # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed, Paid }
    /// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
    /// # #[derive(Serialize, Deserialize)] enum Step { Reserve { order: String }, Release { order: String } }
    /// # struct Fulfilment;
    /// # #[factum::async_trait]
    /// # impl ProcessManager for Fulfilment {
    /// #     const NAME: &'static str = "fulfilment";
    /// #     type Event = OrderEvent; type State = (); type Command = Step;
    /// #     fn instance(&self, event: &Recorded<OrderEvent>) -> Option<String> { Some(event.record.stream.id().to_owned()) }
    /// #     fn evolve(&self, (): &mut (), _: &Input<OrderEvent, Step>) {}
    /// #     fn react(&self, (): &(), input: &Input<OrderEvent, Step>) -> Vec<Effect<Step>> {
    /// #         match input {
    /// #             Input::Event(Recorded { event: OrderEvent::Placed, record }) => vec![
    /// #                 Effect::send(Step::Reserve { order: record.stream.id().into() }),
    /// #                 Effect::schedule("payment", input.at().plus(Duration::from_secs(3600)))],
    /// #             Input::Event(_) => vec![Effect::cancel("payment"), Effect::Complete],
    /// #             _ => vec![Effect::Compensate],
    /// #         }
    /// #     }
    /// #     async fn perform(&self, _: Step, _: Identified<Factum>) -> Result<(), Trouble> { Ok(()) }
    /// # }
    /// # use OrderEvent::*;
    /// let reserve = || Step::Reserve { order: SUBJECT.into() };
    /// let deadline = START.plus(Duration::from_secs(3600));
    ///
    /// given([Placed]).process(Fulfilment).then_effects([Effect::send(reserve()), Effect::schedule("payment", deadline)]);
    ///
    /// given([Placed]).process(Fulfilment).when([Paid]).then_effects([Effect::cancel("payment"), Effect::Complete]);
    /// given([Placed]).process(Fulfilment).when_timer("payment").then_effects([Effect::Compensate]);
    /// given([Placed]).process(Fulfilment).when_refused(reserve(), "sold out").then_effects([Effect::Compensate]);
    /// given([Placed, Paid]).process(Fulfilment).when([Placed]).then_nothing();
    /// ```
    ///
    /// # Panics
    /// If something of it cannot be heard; the message says why.
    #[track_caller]
    pub fn process<P: ProcessManager>(self, process: P) -> Reacting<P> {
        let world = self.into_world(category_of::<P::Event>().as_deref().unwrap_or("events"));
        let given = world.events().iter().map(Line::recorded).collect();
        let rehearsal = Rehearsal::new(process, world.factum.clone());
        let (tried, unheard) = ("this".to_owned(), Vec::new());
        let reacting =
            Reacting { world, rehearsal, given, tried, unheard, heard: Position::START, effects: Vec::new() };
        reacting.hear()
    }
}

/// A process manager that has heard what is given, and what it asks for because of what came last.
pub struct Reacting<P: ProcessManager> {
    world: World,
    rehearsal: Rehearsal<P>,
    given: Vec<Line>,
    tried: String,
    /// What it was told, and what is for no instance.
    unheard: Vec<Line>,
    heard: Position,
    effects: Vec<Line>,
}

impl<P: ProcessManager> std::fmt::Debug for Reacting<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reacting").field("effects", &self.effects).finish_non_exhaustive()
    }
}

impl<P: ProcessManager> Reacting<P> {
    /// What follows happens at this moment.
    ///
    /// # Panics
    /// If it is not written like `2026-03-31T12:00:00Z`.
    #[track_caller]
    pub fn at(self, moment: &str) -> Self {
        let moment: Result<Timestamp> = moment.parse();
        self.world.clock.set(moment.unwrap_or_else(|error| panic!("{error}")));
        self
    }

    /// Then this happens.
    ///
    /// # Panics
    /// If it cannot be recorded or heard; the message says why.
    #[track_caller]
    pub fn when(mut self, what: impl Past) -> Self {
        match what.writes() {
            Writes(Ok(writes)) => self.world.record(Append { writes, guards: Vec::new() }),
            Writes(Err(error)) => panic!("an event cannot be written: {error}"),
        }
        let came: Vec<_> = self.unread_yet().iter().map(Line::recorded).collect();
        let came: Vec<_> = came.iter().map(Line::text).collect();
        self.tried = came.join("\n    ");
        self.hear()
    }

    /// Then the timer of this id is due. The clock goes to that moment, if it is not past it.
    ///
    /// # Panics
    /// If no such timer is set.
    #[track_caller]
    pub fn when_timer(mut self, id: &str) -> Self {
        self.tried = format!("the timer `{id}` is due");
        let (rehearsal, clock) = (&self.rehearsal, &self.world.clock);
        match in_a_runtime(async { Ok(rehearsal.fire(id, clock).await) }) {
            Ok(Ok(0)) => self.story().fail("a timer that is set", &[], "there is none of this id"),
            Ok(Ok(_)) => self.hear(),
            Ok(Err(trouble)) => self.story().fail("that it can be heard", &[], &trouble.to_string()),
            Err(error) => self.story().fail("that it can be heard", &[], &error.to_string()),
        }
    }

    /// Then a command that it has sent is refused. Commands are compared as JSON.
    ///
    /// # Panics
    /// If it has sent no such command, or this one was refused before.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "a test reads better without a reference to a literal")]
    pub fn when_refused(mut self, command: P::Command, why: &str) -> Self {
        self.tried = format!("{} is refused: {why}", Line::row("the command", &command).text());
        let rehearsal = &self.rehearsal;
        match in_a_runtime(async { Ok(rehearsal.refuse(&command, why).await) }) {
            Ok(Ok(false)) => self.story().fail("a command that was sent", &[], "it has sent no such command"),
            Ok(Ok(true)) => self.hear(),
            Ok(Err(trouble)) => self.story().fail("that it can be heard", &[], &trouble.to_string()),
            Err(error) => self.story().fail("that it can be heard", &[], &error.to_string()),
        }
    }

    /// It asks for these effects because of what came last, in this order, and for no others. What was given counts as one.
    ///
    /// # Panics
    /// If not, with what it asks for instead, and with the events that are for none of its instances.
    #[track_caller]
    pub fn then_effects(self, expected: impl IntoIterator<Item = Effect<P::Command>>) -> Self {
        let expected: Vec<_> = expected.into_iter().map(|effect| Line::row("effect", &effect)).collect();
        if self.effects != expected {
            self.story().fail_with_difference("these effects", &expected, &self.effects);
        }
        self
    }

    /// It asks for nothing because of what came last.
    ///
    /// # Panics
    /// If it does, with what that is.
    #[track_caller]
    pub fn then_nothing(self) -> Self {
        if !self.effects.is_empty() {
            self.story().fail_with_difference("nothing to do", &[], &self.effects);
        }
        self
    }

    /// Hears what has come since.
    #[track_caller]
    fn hear(mut self) -> Self {
        let records = self.unread_yet();
        let rehearsal = &self.rehearsal;
        match in_a_runtime(hear_all(rehearsal, records)) {
            Ok(Ok((unheard, effects))) => {
                self.unheard.extend(unheard.iter().map(Line::recorded));
                self.effects = effects.iter().map(|effect| Line::row("effect", effect)).collect();
            }
            Ok(Err((record, trouble))) => {
                let line = [Line::recorded(&record)];
                self.story().fail("that this can be heard", &line, &format!("it cannot: {trouble}"));
            }
            Err(error) => self.story().fail("that it can be heard", &[], &error.to_string()),
        }
        self.heard = self.world.events().last().map_or(self.heard, |last| last.position);
        self
    }

    fn unread_yet(&self) -> Vec<RecordedEvent> {
        self.world.events().into_iter().filter(|record| record.position > self.heard).collect()
    }

    fn story(&self) -> Story {
        let who = short_name::<P>();
        Story::new(&self.given)
            .unheard(who, &self.unheard)
            .when(&format!("{}\n    heard by {who}", self.tried))
    }
}

type HeardAll = Result<(Vec<RecordedEvent>, Vec<serde_json::Value>), (RecordedEvent, Trouble)>;

/// What is for no instance, and what follows from the rest.
async fn hear_all<P: ProcessManager>(
    rehearsal: &Rehearsal<P>,
    records: Vec<RecordedEvent>,
) -> Result<HeardAll> {
    let before: HashSet<_> = rehearsal.own().await?.into_iter().map(|record| record.position).collect();
    let mut unheard = Vec::new();
    for record in records {
        match rehearsal.hear(&record).await {
            Ok(true) => {}
            Ok(false) => unheard.push(record),
            Err(trouble) => return Ok(Err((record, trouble))),
        }
    }
    let mut effects = Vec::new();
    for record in rehearsal.own().await?.iter().filter(|record| !before.contains(&record.position)) {
        effects.extend(Rehearsal::<P>::effects(record)?);
    }
    Ok::<_, Error>(Ok((unheard, effects)))
}
