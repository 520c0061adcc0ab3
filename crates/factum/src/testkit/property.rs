//! Whatever is done, in whatever order: an invariant holds.

use std::{
    cell::Cell,
    fmt::{self, Debug, Write as _},
    iter,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    SUBJECT, World, at_once,
    story::{Line, listed},
};
use crate::{
    aggregate::{Aggregate, Command},
    decision::{Decide, Entity, Loaded, Models},
    handle::{Factum, Failure, OfOne},
    worker::said,
};

/// Randomness that a seed repeats.
pub type Random = fastrand::Rng;

/// Sequences that are tried.
const SEQUENCES: u32 = 100;
/// Steps of a sequence, at most.
const STEPS: usize = 30;
/// What repeats a run.
const SEED: &str = "FACTUM_TEST_SEED";

/// Any sequence of steps, each made by `step`: as [`keeps`](Property::keeps) goes on.
///
/// ```
/// # use factum::{prelude::*, testkit::{Step, any_sequence}};
/// # #[derive(Serialize, Deserialize)] enum SeatEvent { Taken, Freed }
/// # impl Event for SeatEvent { const CATEGORY: &'static str = "seats"; }
/// # #[derive(Default)] struct Seats { taken: u32 }
/// # impl Aggregate for Seats { type Event = SeatEvent; fn apply(&mut self, e: &SeatEvent) {
/// #   match e { SeatEvent::Taken => self.taken += 1, SeatEvent::Freed => self.taken -= 1 } } }
/// # #[derive(Debug)] struct No; impl std::fmt::Display for No { fn fmt(&self, _: &mut std::fmt::Formatter) -> std::fmt::Result { Ok(()) } }
/// # impl std::error::Error for No {}
/// # #[derive(Debug)] struct Take; impl Command<Seats> for Take { type Error = No; fn decide(&self, s: &Seats) -> Result<Vec<SeatEvent>, No> {
/// #   refuse_if(s.taken == 3, No)?; Ok(vec![SeatEvent::Taken]) } }
/// # #[derive(Debug)] struct Free; impl Command<Seats> for Free { type Error = No; fn decide(&self, s: &Seats) -> Result<Vec<SeatEvent>, No> {
/// #   refuse_if(s.taken == 0, No)?; Ok(vec![SeatEvent::Freed]) } }
/// any_sequence(|random| if random.bool() { Step::command(Take) } else { Step::command(Free) })
///     .keeps(|seats: &Seats| seats.taken <= 3);
/// ```
///
/// # Panics
/// If the variable `FACTUM_TEST_SEED` is set, and is no whole number.
#[track_caller]
pub fn any_sequence<A, F>(step: F) -> Property<A, F>
where
    F: FnMut(&mut Random) -> Step<A>,
{
    let seed = match std::env::var_os(SEED) {
        Some(given) => seed_of(&given.to_string_lossy()),
        None => fastrand::u64(..),
    };
    Property { step, seed, of: PhantomData }
}

#[track_caller]
fn seed_of(given: &str) -> u64 {
    given.trim().parse().unwrap_or_else(|_| {
        panic!("{SEED} is `{given}`, which is no seed: give the whole number that a failing test has named")
    })
}

/// Does it; the refusal, if it is refused.
type Take = dyn Fn(&Factum) -> Result<(), String>;

/// A command or a decision, with the words for it.
pub struct Step<A = ()> {
    words: String,
    take: Arc<Take>,
    of: PhantomData<A>,
}

impl<A> Clone for Step<A> {
    fn clone(&self) -> Self {
        Self { words: self.words.clone(), take: self.take.clone(), of: PhantomData }
    }
}

impl<A> Debug for Step<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl<A: Aggregate> Step<A> {
    /// A command for the one aggregate.
    pub fn command<C: Command<A> + Debug + 'static>(command: C) -> Self {
        let words = format!("{command:?}");
        let id = A::id(SUBJECT);
        let take =
            move |factum: &Factum| tried(at_once(factum.take(&OfOne { id: &id, command: &command }, None)));
        Self { words, take: Arc::new(take), of: PhantomData }
    }
}

impl<A> Step<A> {
    /// A decision over several things.
    pub fn decision<D: Decide + Debug + 'static>(decision: D) -> Self {
        let words = format!("{decision:?}");
        let take = move |factum: &Factum| tried(at_once(factum.take(&decision, None)));
        Self { words, take: Arc::new(take), of: PhantomData }
    }
}

fn tried<T, E: std::error::Error>(answer: Result<T, Failure<E>>) -> Result<(), String> {
    match answer {
        Ok(_) => Ok(()),
        Err(Failure::Refused(refusal)) => Err(refusal.to_string()),
        Err(Failure::Store(error)) => panic!("it could not be tried: {error}"),
    }
}

/// What must hold after each step of any sequence: see [`any_sequence`].
#[must_use]
pub struct Property<A, F> {
    step: F,
    seed: u64,
    of: PhantomData<A>,
}

impl<A, F> Debug for Property<A, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Property").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl<A, F: FnMut(&mut Random) -> Step<A>> Property<A, F> {
    /// The same, for this seed. Without it each run has its own, which a failing test names; the variable `FACTUM_TEST_SEED`
    /// sets it from outside.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The invariant holds for the one aggregate, before the first step and after each. Refused commands are steps like others.
    ///
    /// # Panics
    /// If it does not, with a sequence from which nothing can be left out; and if no step of any sequence records anything, so that
    /// nothing was tried.
    #[track_caller]
    pub fn keeps(self, invariant: impl Fn(&A) -> bool)
    where
        A: Aggregate,
    {
        self.keeps_all(|| Entity::of(&A::id(SUBJECT)), |entity| invariant(&entity.state));
    }

    /// The invariant holds for these models, before the first step and after each.
    ///
    /// # Panics
    /// As for [`keeps`](Self::keeps).
    #[track_caller]
    pub fn keeps_all<M: Models>(mut self, models: impl Fn() -> M, invariant: impl Fn(&M) -> bool) {
        let recorded = Cell::new(0);
        let broken = |steps: &[Step<A>]| Broken::by(steps, &models, &invariant, &recorded);
        let mut random = Random::with_seed(self.seed);
        for sequence in 1..=SEQUENCES {
            let steps: Vec<_> = (0..random.usize(1..=STEPS)).map(|_| (self.step)(&mut random)).collect();
            let Some(first) = broken(&steps) else { continue };
            let (steps, broken) = shrink(steps, first, broken);
            let found = format!("sequence {sequence} of {SEQUENCES}, with {SEED}={}", self.seed);
            panic!("{}", broken.story(&steps, &found));
        }
        assert!(
            recorded.get() > 0,
            "no step of {SEQUENCES} sequences recorded anything (with {SEED}={}): each was refused, or had nothing to do, so the \
             invariant was not put to the test\n",
            self.seed
        );
    }
}

/// A sequence after which the invariant does not hold.
struct Broken {
    /// After so many steps.
    after: usize,
    /// What each of them was refused for, if it was.
    refusals: Vec<Option<String>>,
    why: String,
    events: Vec<Line>,
}

impl Broken {
    fn by<A, M: Models>(
        steps: &[Step<A>],
        models: impl Fn() -> M,
        invariant: impl Fn(&M) -> bool,
        recorded: &Cell<usize>,
    ) -> Option<Self> {
        let world = World::default();
        let mut refusals = Vec::new();
        let check = || {
            let mut models = models();
            let loaded = at_once(models.load(&**world.factum.store(), &mut Loaded::default()));
            loaded.unwrap_or_else(|error| panic!("the models cannot be loaded: {error}"));
            invariant(&models)
        };
        // Before the first step nothing is taken: the invariant must hold of what is empty.
        for (after, step) in iter::once(None).chain(steps.iter().map(Some)).enumerate() {
            // A panic, in a command or in the invariant, breaks it as well.
            let held = catch_unwind(AssertUnwindSafe(|| {
                let refusal = step.and_then(|step| (step.take)(&world.factum).err());
                (refusal, check())
            }));
            let (refusal, why) = match held {
                Ok((refusal, true)) => (refusal, None),
                Ok((refusal, false)) => (refusal, Some("the invariant does not hold".to_owned())),
                Err(panic) => (None, Some(format!("it panicked: {}", said(&*panic)))),
            };
            refusals.extend(step.map(|_| refusal));
            let Some(why) = why else { continue };
            let events = world.events().iter().map(Line::recorded).collect();
            return Some(Self { after, refusals, why, events });
        }
        recorded.set(recorded.get() + world.events().len());
        None
    }

    fn story<A>(&self, steps: &[Step<A>], found: &str) -> String {
        let when = if steps.is_empty() { "before the first step" } else { "after" };
        let mut story = format!("{}, {when} ({found})\n", self.why);
        for (step, refusal) in steps.iter().zip(&self.refusals) {
            let refusal = refusal.as_ref().map_or(String::new(), |why| format!("    refused: {why}"));
            // Writing to a string cannot fail.
            let _ = writeln!(story, "    {step:?}{refusal}");
        }
        let events = listed(&self.events, "    ");
        let _ =
            write!(story, "which recorded\n{}", if events.is_empty() { "    nothing\n" } else { &events });
        story
    }
}

/// Leaves out steps, many at once and then one by one, as long as what is left still breaks the invariant.
fn shrink<A>(
    mut steps: Vec<Step<A>>,
    mut broken: Broken,
    try_again: impl Fn(&[Step<A>]) -> Option<Broken>,
) -> (Vec<Step<A>>, Broken) {
    steps.truncate(broken.after);
    let mut size = steps.len() / 2;
    while size > 0 {
        let (mut at, mut shorter) = (0, false);
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match try_again(&fewer) {
                Some(still) => {
                    fewer.truncate(still.after);
                    (steps, broken, shorter) = (fewer, still, true);
                }
                None => at += size,
            }
        }
        size = if size == 1 && shorter { 1 } else { size / 2 };
    }
    (steps, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_number() {
        assert_eq!(seed_of(" 17 "), 17);
        let panic = catch_unwind(|| seed_of("0x17")).unwrap_err();
        assert!(said(&*panic).contains("FACTUM_TEST_SEED is `0x17`"), "{}", said(&*panic));
    }
}
