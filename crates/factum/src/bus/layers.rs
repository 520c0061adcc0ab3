//! Middleware: what lies around every command and query of a bus.

use std::{error::Error as StdError, fmt, future::Future, sync::Arc};

use tracing::{Instrument as _, field};

use super::{Call, Kind, Rejected};
use crate::handle::Done;

/// A layer around commands and queries: it sees each on its way in, and its outcome on the way out. What it does not await
/// does not happen.
///
/// ```
/// use factum::bus::{Call, Layer, Rejected, Rest};
///
/// /// Counts what was refused.
/// #[derive(Default)]
/// struct Refusals(std::sync::atomic::AtomicU64);
///
/// impl<M: Sync, P: Sync> Layer<M, P> for Refusals {
///     async fn around<T: Send, E: std::error::Error + Send>(
///         &self,
///         call: Call<'_, M, P>,
///         rest: impl Rest<T, E>,
///     ) -> Result<T, Rejected<E>> {
///         let answer = rest.await;
///         if let Err(Rejected::Refused(refusal)) = &answer {
///             self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///             eprintln!("{} was refused: {refusal}", call.name());
///         }
///         answer
///     }
/// }
/// ```
///
/// A layer that asks something of a message says so in its bounds, as [`Validation`] does: then a message that cannot be asked does not
/// compile on a bus with that layer.
pub trait Layer<M, P>: Send + Sync {
    /// Goes on with `rest`, or does not.
    ///
    /// # Errors
    /// Those of `rest`, and whatever the layer stops it for.
    fn around<T: Send, E: StdError + Send>(
        &self,
        call: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> impl Future<Output = Result<T, Rejected<E>>> + Send;
}

/// What lies further in: the other layers, then the command or query itself.
pub trait Rest<T, E>: Future<Output = Result<T, Rejected<E>>> + Send {}

impl<T, E, F: Future<Output = Result<T, Rejected<E>>> + Send> Rest<T, E> for F {}

/// No layer.
impl<M: Sync, P: Sync> Layer<M, P> for () {
    async fn around<T: Send, E: StdError + Send>(
        &self,
        _: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        rest.await
    }
}

/// Layers, and one more inside of them.
#[derive(Debug)]
pub struct Then<O, I> {
    pub(super) outer: Arc<O>,
    pub(super) inner: I,
}

impl<M: Sync, P: Sync, O: Layer<M, P>, I: Layer<M, P>> Layer<M, P> for Then<O, I> {
    async fn around<T: Send, E: StdError + Send>(
        &self,
        call: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        self.outer.around(call, self.inner.around(call, rest)).await
    }
}

/// A message that says whether it makes sense in itself, before anybody looks at any state.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether it makes sense, and this bus has the layer `Validation`",
    note = "write `impl bus::Validate for {Self}`"
)]
pub trait Validate {
    /// Checks all that can be checked: `check.that(self.cents > 0, "cents", "withdraw at least one cent")`.
    fn validate(&self, check: &mut Checks);
}

/// What [`Validate`] notes.
#[derive(Debug, Default)]
pub struct Checks {
    problems: Vec<(&'static str, String)>,
}

impl Checks {
    /// Notes a problem with a field, unless the condition holds.
    pub fn that(&mut self, holds: bool, field: &'static str, problem: impl Into<String>) -> &mut Self {
        if !holds {
            self.problems.push((field, problem.into()));
        }
        self
    }
}

/// What is wrong with a message: all of it, not only the first thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The message's type.
    pub message: &'static str,
    /// Fields, and what is wrong with them.
    pub problems: Vec<(&'static str, String)>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` makes no sense", self.message)?;
        for (n, (field, problem)) in self.problems.iter().enumerate() {
            write!(f, "{} {field}: {problem}", if n == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl StdError for Invalid {}

/// The layer that lets only messages pass that are valid by their own [`Validate`]. What says nothing of that does not compile:
///
/// ```compile_fail,E0277
/// # use factum::{bus::{self, CommandBus, Validation}, prelude::*};
/// # #[derive(Serialize, Deserialize)] enum DoorEvent { Opened }
/// # impl factum::Event for DoorEvent { const CATEGORY: &'static str = "door"; }
/// # #[derive(Default)] struct Door; impl Aggregate for Door { type Event = DoorEvent; fn apply(&mut self, _: &DoorEvent) {} }
/// # impl Command<Door> for Open { type Error = std::convert::Infallible; fn decide(&self, _: &Door) -> Result<Vec<DoorEvent>, Self::Error> { Ok(vec![]) } }
/// struct Open;                               // has no `impl bus::Validate`
///
/// # async fn example(factum: Factum) {
/// let commands = CommandBus::new(factum).with(Validation);
/// let _ = commands.execute(&Door::id("1"), Open).await;
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Validation;

impl<M: Validate + Sync, P: Sync> Layer<M, P> for Validation {
    async fn around<T: Send, E: StdError + Send>(
        &self,
        call: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        let mut checks = Checks::default();
        call.message.validate(&mut checks);
        match checks.problems {
            problems if problems.is_empty() => rest.await,
            problems => Err(Invalid { message: call.name(), problems }.into()),
        }
    }
}

/// A message that says who may send it. `P` is the type of your principals; for what anybody may do, be known or not, it is
/// [`Anyone`](super::Anyone) as well.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether a `{P}` may send it, and this bus has the layer `Authorisation`",
    note = "write `impl bus::Authorise<{P}> for {Self}`; who sends a message is said by `by(…)`, before that it is `Anyone`"
)]
pub trait Authorise<P> {
    /// Whether it may. `target` is the id of the aggregate that a command is for; it is empty for decisions and queries, which say
    /// themselves what they are about.
    ///
    /// # Errors
    /// Why not.
    fn authorise(&self, principal: &P, target: &str) -> Result<(), Forbidden>;
}

/// Why somebody may not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden(
    /// The reason, for whoever asked.
    pub String,
);

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not allowed: {}", self.0)
    }
}

impl StdError for Forbidden {}

/// A rule in one line: `allow_if(user.is_teller, "only tellers withdraw")`.
///
/// # Errors
/// The reason, unless the condition holds.
pub fn allow_if(condition: bool, otherwise: impl Into<String>) -> Result<(), Forbidden> {
    if condition { Ok(()) } else { Err(Forbidden(otherwise.into())) }
}

/// The layer that lets only messages pass that their principal may send, by their own [`Authorise`]. What has no rule for
/// that type of principal does not compile, and so no rule is forgotten:
///
/// ```compile_fail,E0277
/// # use factum::{bus::{self, Authorisation, CommandBus, Forbidden}, prelude::*};
/// # #[derive(Serialize, Deserialize)] enum DoorEvent { Opened }
/// # impl factum::Event for DoorEvent { const CATEGORY: &'static str = "door"; }
/// # #[derive(Default)] struct Door; impl Aggregate for Door { type Event = DoorEvent; fn apply(&mut self, _: &DoorEvent) {} }
/// # impl Command<Door> for Open { type Error = std::convert::Infallible; fn decide(&self, _: &Door) -> Result<Vec<DoorEvent>, Self::Error> { Ok(vec![]) } }
/// # struct Porter; struct Guest;
/// # impl bus::Principal for Guest { fn actor(&self) -> String { "guest".into() } }
/// # struct Open;
/// impl bus::Authorise<Porter> for Open {     // says nothing of a `Guest`
///     fn authorise(&self, _: &Porter, _door: &str) -> Result<(), Forbidden> { Ok(()) }
/// }
///
/// # async fn example(factum: Factum) {
/// let commands = CommandBus::new(factum).with(Authorisation);
/// let _ = commands.by(Guest).execute(&Door::id("1"), Open).await;
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Authorisation;

impl<M: Authorise<P> + Sync, P: Sync> Layer<M, P> for Authorisation {
    async fn around<T: Send, E: StdError + Send>(
        &self,
        call: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        call.message.authorise(call.principal, call.target)?;
        rest.await
    }
}

/// The layer that lets only commands pass that have an id, so that no caller forgets it: see
/// [`CommandBus::identified`](super::CommandBus::identified).
#[derive(Clone, Copy, Debug, Default)]
pub struct Idempotency;

impl<M: Sync, P: Sync> Layer<M, P> for Idempotency {
    async fn around<T: Send, E: StdError + Send>(
        &self,
        call: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        if call.kind == Kind::Command && call.command_id.is_none() {
            let problem = "it has none; send it with `identified(…)`, so that it is done once".to_owned();
            return Err(Invalid { message: call.name(), problems: vec![("command id", problem)] }.into());
        }
        rest.await
    }
}

/// The layer that opens a span of the crate `tracing` for each message: `command` or `query`, at the level `INFO`, with the fields
/// `message`, `target_id`, `command_id`, `attempts` and `repeated` (those of [`Done`]), and `outcome` (`done`, `invalid`, `forbidden`,
/// `refused`, `store`, `stopped`). What was not done is also an event in it, at `WARN` if the store failed, else at `DEBUG`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl<M: Sync, P: Sync> Layer<M, P> for Tracing {
    async fn around<T: Send, E: StdError + Send>(
        &self,
        call: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        let target = (!call.target.is_empty()).then_some(call.target);
        macro_rules! span {
            ($name:literal) => {
                tracing::info_span!(
                    $name,
                    message = call.name(),
                    target_id = target,
                    command_id = call.command_id,
                    attempts = field::Empty,
                    repeated = field::Empty,
                    outcome = field::Empty,
                )
            };
        }
        let span = match call.kind {
            Kind::Command => span!("command"),
            Kind::Query => span!("query"),
        };
        let answer = rest.instrument(span.clone()).await;
        let outcome = match &answer {
            Ok(_) => "done",
            Err(Rejected::Invalid(_)) => "invalid",
            Err(Rejected::Forbidden(_)) => "forbidden",
            Err(Rejected::Refused(_)) => "refused",
            Err(Rejected::Store(_)) => "store",
            Err(Rejected::Stopped(_)) => "stopped",
        };
        span.record("outcome", outcome);
        match &answer {
            Ok(_) => {}
            Err(why @ Rejected::Store(_)) => {
                span.in_scope(|| tracing::warn!(error = %why, "{} was not done", call.name()));
            }
            Err(why) => span.in_scope(|| tracing::debug!(reason = %why, "{} was not done", call.name())),
        }
        answer
    }
}

/// Says in the span of a command, if it has one, how it was done.
pub(super) fn note(done: &Done) {
    let span = tracing::Span::current();
    span.record("attempts", done.attempts);
    span.record("repeated", done.repeated);
}
