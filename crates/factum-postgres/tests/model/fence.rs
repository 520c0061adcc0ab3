//! The fence on appenders, one step for each moment at which others can notice something.
//!
//! What the steps stand for is in [`STATEMENTS`], which a test holds against `sql/migrations/0001_store.sql`. The rest is
//! PostgreSQL's own, in the order in which it does it: a commit is on disk before it can be seen, and can be seen before its locks
//! are given back; a rollback, also that of a connection that is lost, gives back the transaction's locks first and those of the
//! session after them. An `INSERT` is no step: nobody notices it before the commit.
//!
//! A crash of the server forgets what was not on disk: transactions, and the end of a sequence's way. It forgets neither what was
//! committed nor what readers were told.

use std::fmt;

use super::explorer::{Machine, Next};

/// Which statement a step is, and the function in which it stands, in the order in which they stand there.
pub(crate) const STATEMENTS: &[(&str, &str)] = &[
    // `Act::Gate` to `Act::Draw`: an appender draws.
    ("allocate", "pg_advisory_lock(gate, 0)"),
    ("allocate", "last := pg_sequence_last_value('factum.position')"),
    ("allocate", "pg_advisory_xact_lock(fences, factum.fence_key(last))"),
    ("allocate", "setval('factum.position', last + count)"),
    // The last one; the first is the handler's, `Act::GiveBackGate` of one that gives up.
    ("allocate", "pg_advisory_unlock(gate, 0)"),
    // `Act::LookAtDrawn` to `Act::LookAtCommitted`: a reader looks.
    ("safe_head", "SELECT last_value INTO drawn FROM factum.position"),
    ("safe_head", "SELECT min(factum.fence_position(key, drawn)) INTO announced FROM factum.fences"),
    ("safe_head", "max(position)"),
    // `Act::SettleDrawn` to `Act::Wait`: an append is settled.
    ("settle", "SELECT last_value INTO drawn FROM factum.position"),
    ("settle", "SELECT min(factum.fence_position(key, drawn)) INTO announced FROM factum.fences"),
    ("settle", "settled := least(drawn, announced)"),
    ("settle", "IF announced IS NULL OR announced >= at_position THEN"),
    (
        "settle",
        "pg_advisory_xact_lock_shared('factum.events'::regclass::oid::integer, factum.fence_key(announced))",
    ),
    ("settle", "END LOOP"),
    // The arithmetic, of which the model has a shorter one.
    ("fence_position", "drawn + ((key::bigint - drawn + 2147483648) & 4294967295) - 2147483648"),
    ("fences", "l.mode = 'ExclusiveLock'"),
];

/// What a reader and an appender can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Nothing appears at or before a position that a reader has gone past, and it goes past nothing.
    NothingIsMissed,
    /// What is answered is seen by everybody who asks after it.
    AnsweredIsSeen,
    /// A reader's checkpoint lies in the log that it reads, also later.
    CheckpointsStayGood,
    /// No two events have one position.
    OnePlaceEach,
}

/// A known wrong way of doing it, which must be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// One statement for what was drawn and what is announced: whichever comes first.
    CeilingAndMinimumInOneStatement,
    /// The events, seen as they were when the statement began that looks at the fences.
    EventsInTheStatementOfTheLooks,
    FencesBeforeTheCeiling,
    LockAfterDrawing,
    /// The lock is given back with the statement, not with the transaction.
    LockGivenBackBeforeCommit,
    ReadToWhatWasDrawn,
    AnswerWithoutSettling,
    NoGate,
    /// The key is taken for a position.
    KeyIsPosition,
    /// Of the positions that a key can mean, the last one that was drawn.
    KeyIsAlwaysBehind,
    /// A reader is told of the last number drawn, also if nothing stands there.
    TokenOfAHole,
}

/// Who does what, and how much can happen.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) appenders: [Runs; 3],
    /// How many bits of a position are in the lock's key.
    pub(crate) key_bits: u32,
    /// What was drawn before it all began.
    pub(crate) begin: u8,
    /// How often the server crashes, at most.
    pub(crate) crashes: u8,
    pub(crate) bugs: &'static [Bug],
    /// The only promise to look at, if not all.
    pub(crate) only: Option<Promise>,
}

/// One step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Gate,
    ReadLast,
    Announce,
    Draw,
    GiveBackGate,
    Flush,
    Show,
    GiveBackFence,
    SettleDrawn,
    SettleFences,
    Wait,
    Answer,
    /// A connection that is lost after the commit: the append is sent again, and is known by its id.
    AskAgain,
    GiveUp,
    LookAtDrawn,
    LookAtFences,
    LookAtCommitted,
    Crash,
}

/// Who, and what.
#[derive(Clone, Copy)]
pub(crate) struct Step(char, Act);

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.0, self.1)
    }
}

/// The numbers of events of an appender's appends, one after the other; 0 is none.
pub(crate) type Runs = [u8; 2];
/// A set of small numbers.
type Set = u32;

/// The positions up to this one.
const fn up_to(position: u8) -> Set {
    (2 << position) - 1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum At {
    /// Before it begins, and after its end.
    Rest,
    Gate,
    Read,
    Announced,
    Drawn,
    Writing,
    Flushed,
    Shown,
    Committed,
    Looking,
    Settling,
    GivingUp,
}

/// A process that appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Appender {
    at: At,
    /// The events of each append that it still has to do; the first is under way, and 0 is none.
    runs: Runs,
    gate: bool,
    /// Announces that it draws beyond `last` only.
    fence: bool,
    /// What was drawn before it.
    last: u8,
    /// What was drawn when it settles.
    drawn: u8,
    /// The key that it waits for.
    waits: Set,
}

impl Appender {
    fn run(&self) -> u8 {
        self.runs[0]
    }

    /// Its events.
    fn events(&self) -> Set {
        up_to(self.last + self.run()) & !up_to(self.last)
    }

    fn ended(&mut self) {
        *self = Self::new([self.runs[1], 0]);
    }

    fn new(runs: Runs) -> Self {
        Self { at: At::Rest, runs, gate: false, fence: false, last: 0, drawn: 0, waits: 0 }
    }
}

/// A process that reads and remembers how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Reader {
    drawn: Option<u8>,
    announced: Option<u8>,
    /// Events as it sees them, if it looked too early.
    early: Set,
    /// What was answered before it began: it must see all of it.
    must: Set,
    checkpoint: u8,
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fence {
    last_value: u8,
    /// What of it survives a crash.
    on_disk: u8,
    crashes: u8,
    /// The events that are committed and can be seen.
    shown: Set,
    answered: Set,
    appenders: [Appender; 3],
    reader: Reader,
    key_bits: u32,
    bugs: Set,
}

impl Fence {
    pub(crate) fn new(setting: &Setting) -> Self {
        let Setting { appenders, key_bits, begin, crashes, bugs, .. } = setting.clone();
        Self {
            last_value: begin,
            on_disk: begin,
            crashes,
            shown: up_to(begin),
            answered: 0,
            appenders: appenders.map(Appender::new),
            reader: Reader { checkpoint: begin, ..Reader::default() },
            key_bits,
            bugs: bugs.iter().fold(0, |all, bug| all | 1 << *bug as u32),
        }
    }

    fn is(&self, bug: Bug) -> bool {
        self.bugs & 1 << bug as u32 != 0
    }

    /// `fence_key`.
    fn key(&self, position: u8) -> u8 {
        position & ((1 << self.key_bits) - 1)
    }

    /// `fence_position`.
    fn position(&self, key: u8, drawn: u8) -> u8 {
        let (ring, half) = (1 << self.key_bits, 1 << (self.key_bits - 1));
        let (key, drawn) = (i32::from(key), i32::from(drawn));
        let position = if self.is(Bug::KeyIsPosition) {
            key
        } else if self.is(Bug::KeyIsAlwaysBehind) {
            drawn - ((drawn - key) & (ring - 1))
        } else {
            drawn + ((key - drawn + half) & (ring - 1)) - half
        };
        u8::try_from(position.max(0)).unwrap_or(u8::MAX)
    }

    /// The keys of `fences`.
    fn keys(&self) -> impl Iterator<Item = u8> {
        self.appenders.iter().filter(|appender| appender.fence).map(|appender| self.key(appender.last))
    }

    /// Does a step of an appender; `None` if it cannot be done now.
    fn work(&self, n: usize, act: Act) -> Option<Result<Self, Promise>> {
        let mut world = self.clone();
        let me = &mut world.appenders[n];
        match act {
            Act::Gate => {
                let free = !self.appenders.iter().any(|other| other.gate) || self.is(Bug::NoGate);
                (me.gate, me.at) = (free.then_some(!self.is(Bug::NoGate))?, At::Gate);
            }
            Act::ReadLast => (me.last, me.at) = (self.last_value, At::Read),
            Act::Announce => {
                // Who announces the same is waited for.
                let free = !self.keys().any(|key| key == self.key(me.last));
                me.fence = free.then_some(true)?;
                me.at = if me.at == At::Read { At::Announced } else { At::Drawn };
            }
            Act::Draw => {
                me.at = if me.at == At::Read { At::Announced } else { At::Drawn };
                world.last_value = me.last + me.run();
            }
            Act::GiveBackGate => {
                if me.at == At::GivingUp {
                    me.ended();
                } else {
                    (me.gate, me.at) = (false, At::Writing);
                }
                me.fence &= !self.is(Bug::LockGivenBackBeforeCommit);
            }
            Act::Flush => (world.on_disk, me.at) = (self.last_value, At::Flushed),
            Act::Show => {
                me.at = At::Shown;
                return Some(world.show(n).map(|()| world));
            }
            Act::GiveBackFence => (me.fence, me.at) = (false, At::Committed),
            Act::SettleDrawn => (me.drawn, me.at) = (self.last_value, At::Looking),
            Act::SettleFences => {
                let (to, drawn) = (me.last + me.run(), me.drawn);
                let least = self.keys().map(|key| self.position(key, drawn)).min();
                let least = least.filter(|least| *least < to && !self.is(Bug::AnswerWithoutSettling));
                let waits = least.map_or(0, |least| 1 << self.key(least));
                (me.waits, me.drawn, me.at) = (waits, 0, At::Settling);
            }
            Act::Wait => {
                let held = self.keys().any(|key| me.waits == 1 << key);
                // When it is given back, it looks again.
                (me.waits, me.at) = (!held).then_some((0, At::Committed))?;
            }
            Act::Answer => {
                world.answered |= me.events();
                me.ended();
            }
            Act::AskAgain => (me.waits, me.drawn, me.at) = (0, 0, At::Committed),
            Act::GiveUp => {
                (me.fence, me.at) = (false, At::GivingUp);
                if !me.gate {
                    me.ended();
                }
            }
            Act::LookAtDrawn | Act::LookAtFences | Act::LookAtCommitted | Act::Crash => return None,
        }
        Some(Ok(world))
    }

    /// What an appender may do next, if nobody is in its way.
    fn choices(&self, n: usize) -> &'static [Act] {
        let me = &self.appenders[n];
        let wrong = self.is(Bug::LockAfterDrawing);
        match me.at {
            At::Rest if me.run() == 0 => &[],
            At::Rest => &[Act::Gate],
            At::Gate => &[Act::ReadLast, Act::GiveUp],
            At::Read if wrong => &[Act::Draw, Act::GiveUp],
            At::Announced if wrong => &[Act::Announce, Act::GiveUp],
            At::Read => &[Act::Announce, Act::GiveUp],
            At::Announced => &[Act::Draw, Act::GiveUp],
            At::Drawn => &[Act::GiveBackGate, Act::GiveUp],
            // When a commit is on the disk matters only if there are crashes.
            At::Writing if self.crashes == 0 => &[Act::Show, Act::GiveUp],
            At::Writing => &[Act::Flush, Act::GiveUp],
            At::Flushed => &[Act::Show],
            At::Shown => &[Act::GiveBackFence],
            At::Committed => &[Act::SettleDrawn],
            At::Looking => &[Act::SettleFences, Act::AskAgain],
            At::Settling if me.waits == 0 => &[Act::Answer, Act::AskAgain],
            At::Settling => &[Act::Wait, Act::AskAgain],
            At::GivingUp => &[Act::GiveBackGate],
        }
    }

    /// The events of an appender are there for everybody.
    fn show(&mut self, n: usize) -> Result<(), Promise> {
        let events = self.appenders[n].events();
        if self.shown & events != 0 {
            return Err(Promise::OnePlaceEach);
        }
        if events & up_to(self.reader.checkpoint) != 0 {
            return Err(Promise::NothingIsMissed);
        }
        self.shown |= events;
        Ok(())
    }

    /// The reader takes its next look.
    fn look(&self, act: Act) -> Result<Self, Promise> {
        let mut world = self.clone();
        let reader = &mut world.reader;
        if (reader.drawn, reader.announced) == (None, None) {
            (reader.must, reader.early) = (self.answered, self.shown);
        }
        match act {
            Act::LookAtDrawn => reader.drawn = Some(self.last_value),
            Act::LookAtFences => {
                // Without a ceiling yet, it is reckoned from what was drawn at that moment.
                let drawn = reader.drawn.unwrap_or(self.last_value);
                reader.announced =
                    Some(self.keys().map(|key| self.position(key, drawn)).min().unwrap_or(u8::MAX));
            }
            _ => world.read()?,
        }
        Ok(world)
    }

    /// The last look of a reading: the events.
    fn read(&mut self) -> Result<(), Promise> {
        let Reader { drawn, announced, early, must, checkpoint, .. } = self.reader;
        let drawn = drawn.unwrap_or_default();
        let safe = announced.filter(|_| !self.is(Bug::ReadToWhatWasDrawn)).unwrap_or(drawn).min(drawn);
        let seen =
            up_to(safe) & if self.is(Bug::EventsInTheStatementOfTheLooks) { early } else { self.shown };
        let token = if self.is(Bug::TokenOfAHole) { safe } else { highest(seen) };
        if token < checkpoint {
            return Err(Promise::CheckpointsStayGood);
        }
        if self.shown & up_to(token) & !up_to(checkpoint) & !seen != 0 {
            return Err(Promise::NothingIsMissed);
        }
        if must & !up_to(token) != 0 {
            return Err(Promise::AnsweredIsSeen);
        }
        self.reader = Reader { checkpoint: token, ..Reader::default() };
        Ok(())
    }

    /// The looks that a reader may take next.
    fn looks(&self) -> &'static [Act] {
        match (self.reader.drawn, self.reader.announced) {
            (None, None) if self.is(Bug::CeilingAndMinimumInOneStatement) => {
                &[Act::LookAtDrawn, Act::LookAtFences]
            }
            (None, None) if self.is(Bug::FencesBeforeTheCeiling) => &[Act::LookAtFences],
            (None, _) => &[Act::LookAtDrawn],
            (_, None) => &[Act::LookAtFences],
            _ => &[Act::LookAtCommitted],
        }
    }

    /// The server is gone and comes back, with so much of the sequence's way.
    fn crash(&self, last_value: u8) -> Result<Self, Promise> {
        let mut world = Self { last_value, on_disk: last_value, crashes: self.crashes - 1, ..self.clone() };
        world.reader = Reader { checkpoint: self.reader.checkpoint, ..Reader::default() };
        for n in 0..world.appenders.len() {
            let at = world.appenders[n].at;
            match at {
                At::Rest => {}
                At::Flushed | At::Shown | At::Committed | At::Looking | At::Settling => {
                    if at == At::Flushed {
                        world.show(n)?;
                    }
                    let me = &mut world.appenders[n];
                    (me.at, me.fence, me.drawn, me.waits) = (At::Committed, false, 0, 0);
                }
                _ => world.appenders[n].ended(),
            }
        }
        if last_value < self.reader.checkpoint {
            return Err(Promise::CheckpointsStayGood);
        }
        Ok(world)
    }
}

fn highest(set: Set) -> u8 {
    u8::try_from(31_u32.saturating_sub(set.leading_zeros())).unwrap_or(0)
}

impl Machine for Fence {
    type Step = Step;
    type Promise = Promise;

    fn next(&self, can: &mut Vec<Next<Self>>) {
        for (n, name) in (0..self.appenders.len()).zip('a'..) {
            for act in self.choices(n) {
                can.extend(self.work(n, *act).map(|after| (Step(name, *act), after)));
            }
        }
        for act in self.looks() {
            can.push((Step('r', *act), self.look(*act)));
        }
        if self.crashes > 0 {
            for last_value in self.on_disk..=self.last_value {
                can.push((Step('!', Act::Crash), self.crash(last_value)));
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        self.appenders.iter().all(|appender| appender.run() == 0 && !appender.gate && !appender.fence)
    }

    fn is_work(step: Step) -> bool {
        step.0.is_ascii_lowercase() && step.0 != 'r'
    }

    fn kind(&self) -> Self {
        let mut kind = self.clone();
        // Appenders have no names.
        kind.appenders.sort_unstable();
        kind
    }
}
