//! Every order in which things can happen, each state once.

use std::{collections::HashSet, fmt::Debug, hash::Hash};

/// Something that can go on in several ways.
pub(crate) trait Machine: Clone + Eq + Hash + Debug {
    /// What one step is called.
    type Step: Copy + Debug;
    type Promise: Copy + Eq + Debug;

    /// All that can happen next.
    fn next(&self, can: &mut Vec<Next<Self>>);

    /// Whether it is right that nobody goes on from here, except those who only look.
    fn is_at_rest(&self) -> bool;

    /// Whether a step brings nearer to the end, and is not just another look.
    fn is_work(step: Self::Step) -> bool;

    /// One for all states that are alike.
    fn kind(&self) -> Self {
        self.clone()
    }
}

/// A step, with the state after it or the promise that it breaks.
pub(crate) type Next<M> = (<M as Machine>::Step, Result<M, <M as Machine>::Promise>);

/// What was found to be true in every state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// Of the longest way that had to be gone.
    pub(crate) depth: usize,
}

/// A state, and how one comes to it.
struct Reached<M: Machine> {
    state: M,
    by: Option<(usize, M::Step)>,
    depth: usize,
}

/// How a promise is broken.
#[derive(Debug)]
pub(crate) struct Broken<P> {
    /// None, if nobody can go on.
    pub(crate) promise: Option<P>,
    /// How many steps lead to it.
    pub(crate) steps: usize,
    /// Which ones.
    pub(crate) story: String,
}

/// Goes everywhere, the nearest first. If only one promise is asked for, nothing happens where another one is broken.
///
/// # Errors
/// The shortest way to a broken promise, or to where nobody can go on.
pub(crate) fn explore<M: Machine>(
    begin: M,
    only: Option<M::Promise>,
) -> Result<Explored, Broken<M::Promise>> {
    let mut known = HashSet::from([begin.kind()]);
    let mut reached = vec![Reached { state: begin, by: None, depth: 0 }];
    let (mut at, mut steps, mut can) = (0, 0, Vec::new());
    while at < reached.len() {
        let depth = reached[at].depth + 1;
        reached[at].state.next(&mut can);
        if !reached[at].state.is_at_rest() && !can.iter().any(|(step, _)| M::is_work(*step)) {
            return Err(broken(&reached, at, None, None));
        }
        for (step, after) in can.drain(..) {
            steps += 1;
            let state = match after {
                Ok(state) => state,
                Err(promise) if only.is_none_or(|only| only == promise) => {
                    return Err(broken(&reached, at, Some(step), Some(promise)));
                }
                Err(_) => continue,
            };
            if known.insert(state.kind()) {
                reached.push(Reached { state, by: Some((at, step)), depth });
            }
        }
        at += 1;
    }
    let depth = reached.last().map_or(0, |last| last.depth);
    Ok(Explored { states: reached.len(), steps, depth })
}

fn broken<M: Machine>(
    reached: &[Reached<M>],
    end: usize,
    last: Option<M::Step>,
    promise: Option<M::Promise>,
) -> Broken<M::Promise> {
    let (mut lines, mut at) = (Vec::new(), end);
    while let Some((before, step)) = reached[at].by {
        lines.push(format!("{step:?}"));
        at = before;
    }
    lines.reverse();
    lines.extend(last.map(|step| format!("{step:?}")));
    let story = format!("{}\nin {:?}", lines.join("\n"), reached[end].state);
    Broken { promise, steps: lines.len(), story }
}
