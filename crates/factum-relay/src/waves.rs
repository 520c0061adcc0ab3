//! Order per key at brokers that may refuse one message and take the next.

use std::collections::HashSet;

use factum::{Stuck, Trouble};

use crate::message::Message;

/// Messages on their way at the same time, at most, and their bytes.
const WAVE: usize = 512;
const WAVE_BYTES: usize = 4 << 20;

/// Publishes in waves, each with one message of a key at most: the next of a key is on its way when the one before is confirmed,
/// while different keys do not wait for each other.
///
/// `send` publishes those messages, and says what became of each.
pub(crate) async fn in_waves<'m, F>(
    messages: &'m [Message],
    send: impl Fn(Vec<&'m Message>) -> F + Send,
) -> Result<(), Stuck>
where
    F: Future<Output = Vec<Result<(), Trouble>>> + Send,
{
    let mut confirmed = vec![false; messages.len()];
    // What comes before the first that was refused is still to be published: it is that one's fault, and not theirs.
    let mut stuck: Option<Stuck> = None;
    loop {
        let end = stuck.as_ref().map_or(messages.len(), |stuck| stuck.done);
        let wave = next_wave(&messages[..end], &confirmed);
        if wave.is_empty() {
            return stuck.map_or(Ok(()), Err);
        }
        let fates = send(wave.iter().map(|at| &messages[*at]).collect()).await;
        for (at, fate) in wave.into_iter().zip(fates) {
            match fate {
                Ok(()) => confirmed[at] = true,
                Err(trouble) if trouble.is_infrastructure() => {
                    let done = confirmed.iter().take_while(|confirmed| **confirmed).count();
                    // One that is refused by itself comes next time; now nothing gets through.
                    return Err(Stuck { done, trouble });
                }
                Err(trouble) => {
                    if stuck.as_ref().is_none_or(|stuck| at < stuck.done) {
                        stuck = Some(Stuck { done: at, trouble });
                    }
                }
            }
        }
    }
}

/// The first message of each key that is not confirmed.
fn next_wave(messages: &[Message], confirmed: &[bool]) -> Vec<usize> {
    let (mut keys, mut bytes, mut wave) = (HashSet::new(), 0, Vec::new());
    for (at, message) in messages.iter().enumerate().filter(|(at, _)| !confirmed[*at]) {
        if !keys.insert(message.key.as_str()) {
            continue;
        }
        bytes += message.size();
        wave.push(at);
        if wave.len() == WAVE || bytes > WAVE_BYTES {
            break;
        }
    }
    wave
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::message::tests::message;

    /// Publishes these, and says what came of it and in which waves, by position.
    async fn publish(
        keys: &str,
        fate: impl Fn(u64) -> Result<(), Trouble> + Send + Sync,
    ) -> (Result<(), Stuck>, Vec<Vec<u64>>) {
        let messages: Vec<Message> =
            keys.chars().zip(0..).map(|(key, position)| message(&key.to_string(), position)).collect();
        let waves = Mutex::new(Vec::new());
        let done = in_waves(&messages, |wave| {
            let positions: Vec<u64> = wave.iter().map(|message| message.id.position.0).collect();
            let fates = positions.iter().map(|position| fate(*position)).collect();
            waves.lock().unwrap().push(positions);
            async move { fates }
        });
        (done.await, waves.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_key_waits_for_itself_and_for_no_other() {
        let (done, waves) = publish("abacab", |_| Ok(())).await;
        assert_eq!((done, waves), (Ok(()), vec![vec![0, 1, 3], vec![2, 5], vec![4]]));
    }

    #[tokio::test]
    async fn nothing_of_a_key_follows_what_was_refused() {
        let refused = |at| move |position| if position == at { Err(Trouble::refused("no")) } else { Ok(()) };
        let (done, waves) = publish("abacab", refused(3)).await;
        assert_eq!(done, Err(Stuck { done: 3, trouble: Trouble::refused("no") }));
        assert_eq!(
            waves,
            [vec![0, 1, 3], vec![2]],
            "what comes before it is not its fault; what follows waits"
        );
        let (done, waves) = publish("abacab", refused(0)).await;
        assert_eq!(done, Err(Stuck { done: 0, trouble: Trouble::refused("no") }));
        assert_eq!(waves, [vec![0, 1, 3]]);
        let two =
            |position| if position == 1 || position == 2 { Err(Trouble::refused(position)) } else { Ok(()) };
        assert_eq!(publish("aabcab", two).await.0, Err(Stuck { done: 1, trouble: Trouble::refused(1) }));
    }

    #[tokio::test]
    async fn when_nothing_gets_through_it_ends_at_once() {
        let gone = |position| if position == 3 { Err(Trouble::infrastructure("gone")) } else { Ok(()) };
        let (done, waves) = publish("abacab", gone).await;
        assert_eq!(done, Err(Stuck { done: 2, trouble: Trouble::infrastructure("gone") }));
        assert_eq!(waves.len(), 1);
    }

    #[tokio::test]
    async fn waves_are_bounded() {
        let keys: String = (0..1_200).filter_map(|n| char::from_u32(0x4E00 + n)).collect();
        let (done, waves) = publish(&keys, |_| Ok(())).await;
        assert_eq!(
            (done, waves.iter().map(Vec::len).collect()),
            (Ok(()), vec![WAVE, WAVE, 1_200 - 2 * WAVE])
        );
    }
}
