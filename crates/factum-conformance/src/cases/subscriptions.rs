//! Subscriptions: catching up, then live, with no seam: no event missing, none twice, in order.

use factum::{
    Append, Delivery, EventStoreExt, ExpectedRevision, Query, RecordedEvent, Result, Subscription,
    subscription::BATCH,
};
use tokio::task::JoinSet;

use crate::lab::{Lab, Tried, catch_up, stream, tagged, tags, take_until};

pub async fn an_empty_log_has_caught_up_at_once(lab: Lab) -> Result<Tried> {
    let mut subscription = lab.subscribe(Query::all(), None).await?;
    assert_eq!(subscription.next().await?, Delivery::CaughtUp(lab.head().await?));
    Ok(Tried::Yes)
}

pub async fn catching_up_then_live_has_no_seam(lab: Lab) -> Result<Tried> {
    let written = BATCH + 10;
    lab.write("a-1", written).await?;
    let mut subscription = lab.subscribe(Query::all(), None).await?;
    let mut seen = catch_up(&mut subscription).await?;
    assert_eq!(seen, lab.all().await?);
    for n in 1..=20 {
        lab.write("b-1", 1).await?;
        take_until(&mut subscription, &mut seen, written + n).await?;
    }
    assert_eq!(seen, lab.all().await?);
    assert_eq!(subscription.token(), lab.head().await?);
    Ok(Tried::Yes)
}

pub async fn events_written_while_it_waits_wake_it(lab: Lab) -> Result<Tried> {
    let mut subscription = lab.subscribe(tags(&["k:1"]), None).await?;
    catch_up(&mut subscription).await?;
    let waiting = tokio::spawn(async move {
        let mut seen = Vec::new();
        take_until(&mut subscription, &mut seen, 3).await?;
        Ok::<_, factum::Error>(seen)
    });
    for _ in 0..3 {
        tokio::task::yield_now().await;
        lab.write("a-1", 1).await?;
        lab.append(Append::to(stream("b-1"), [tagged("T", &["k:1"])])).await?;
    }
    let seen = waiting.await.expect("the subscriber does not panic")?;
    assert_eq!(seen, lab.store.read_to_end(factum::Read::query(tags(&["k:1"]))).await?);
    Ok(Tried::Yes)
}

pub async fn writers_at_the_same_time_leave_no_gap_for_many_subscribers(lab: Lab) -> Result<Tried> {
    const EACH: usize = 60;
    let mut subscribers = JoinSet::new();
    for n in 0..8 {
        let mut subscription = lab.subscribe(Query::all(), None).await?.with_batch(1 + n * 5);
        subscribers.spawn(async move {
            let mut seen = Vec::new();
            take_until(&mut subscription, &mut seen, 4 * EACH).await?;
            Ok::<_, factum::Error>(seen)
        });
    }
    let mut writers = JoinSet::new();
    for n in 0..4 {
        let store = lab.store.clone();
        writers.spawn(async move {
            for _ in 0..EACH / 2 {
                store.append(Append::to(stream(&format!("a-{n}")), crate::lab::events("E", 2))).await?;
            }
            Ok::<_, factum::Error>(())
        });
    }
    writers.join_all().await.into_iter().collect::<Result<()>>()?;
    let all = lab.all().await?;
    for seen in subscribers.join_all().await {
        assert!(seen? == all, "a subscriber saw another log than the reader");
    }
    Ok(Tried::Yes)
}

/// What comes until a delivery that satisfies `last`, that one included.
async fn deliveries(
    subscription: &mut Subscription,
    last: impl Fn(&Delivery) -> bool,
) -> Result<Vec<Delivery>> {
    let mut all = Vec::new();
    loop {
        all.push(subscription.next().await?);
        if all.last().is_some_and(&last) {
            return Ok(all);
        }
    }
}

pub async fn a_filtered_one_says_how_far_it_has_looked(lab: Lab) -> Result<Tried> {
    lab.append(Append::to(stream("a-1"), [tagged("T", &["k:1"])])).await?;
    lab.write("b-1", 50).await?;
    let mut subscription = lab.subscribe(tags(&["k:1"]), None).await?;
    deliveries(&mut subscription, |delivery| matches!(delivery, Delivery::CaughtUp(_))).await?;
    assert_eq!(subscription.token(), lab.head().await?, "the checkpoint advances past what does not match");
    lab.write("b-1", 5).await?;
    let told = deliveries(&mut subscription, |delivery| matches!(delivery, Delivery::LookedTo(_))).await?;
    assert!(!told.iter().any(|delivery| matches!(delivery, Delivery::Events { .. })), "{told:?}");
    assert_eq!(subscription.token(), lab.head().await?);
    Ok(Tried::Yes)
}

pub async fn it_goes_on_from_any_checkpoint(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 20).await?;
    lab.write("b-1", 20).await?;
    let mut first = lab.subscribe(Query::category("b"), None).await?.with_batch(3);
    let mut checkpoints = Vec::new();
    let (mut seen, mut whole): (Vec<RecordedEvent>, Vec<(usize, factum::Token)>) = (Vec::new(), Vec::new());
    loop {
        match first.next().await? {
            Delivery::Events { events, token } => {
                seen.extend(events);
                whole.push((seen.len(), token));
            }
            Delivery::LookedTo(token) => whole.push((seen.len(), token)),
            _ => break,
        }
    }
    checkpoints.append(&mut whole);
    assert!(checkpoints.len() > 5, "{checkpoints:?}");
    for (handled, checkpoint) in checkpoints {
        let mut again = lab.subscribe(Query::category("b"), Some(checkpoint)).await?;
        assert_eq!(catch_up(&mut again).await?, seen[handled..], "from {checkpoint}");
    }
    let start = lab.log().await?.at(factum::Position::START);
    assert_eq!(catch_up(&mut lab.subscribe(Query::category("b"), Some(start)).await?).await?, seen);
    Ok(Tried::Yes)
}

pub async fn a_slow_reader_falls_back_to_catching_up_and_misses_nothing(lab: Lab) -> Result<Tried> {
    let mut subscription = lab.subscribe(Query::all(), None).await?.with_batch(10);
    catch_up(&mut subscription).await?;
    let caught_up = subscription.token();
    for _ in 0..10 {
        lab.write("a-1", 10).await?;
    }
    let fell_behind = Delivery::FellBehind(caught_up);
    assert_eq!(
        subscription.next().await?,
        fell_behind,
        "it must be told that it fell behind, and from where"
    );
    assert_eq!(subscription.token(), caught_up, "a checkpoint must not run ahead of what was delivered");
    let told = deliveries(&mut subscription, |delivery| matches!(delivery, Delivery::CaughtUp(_))).await?;
    let mut positions = Vec::new();
    for delivery in &told {
        if let Delivery::Events { events, .. } = delivery {
            assert!(events.len() <= 10, "a batch of 10 held {}", events.len());
            positions.extend(events.iter().map(|event| event.position));
        }
    }
    let all: Vec<_> = lab.all().await?.iter().map(|event| event.position).collect();
    assert_eq!(positions, all);
    Ok(Tried::Yes)
}

pub async fn giving_up_waiting_loses_nothing(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 30).await?;
    let mut subscription = lab.subscribe(Query::all(), None).await?.with_batch(4);
    let mut seen = Vec::new();
    for n in 0.. {
        // Dropped before, or in the middle of, what it does; ever later, for stores that take their time.
        tokio::select! {
            biased;
            _ = async { for _ in 0..(n % 3) << (n / 20).min(30) { tokio::task::yield_now().await; } } => {}
            delivery = subscription.next() => match delivery? {
                Delivery::Events { events, .. } => seen.extend(events),
                Delivery::CaughtUp(_) => break,
                _ => {}
            },
        }
    }
    assert_eq!(seen, lab.all().await?);
    Ok(Tried::Yes)
}

pub async fn hidden_events_are_not_delivered(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 5).await?;
    lab.write("b-1", 5).await?;
    lab.store.delete(&stream("a-1"), ExpectedRevision::Any).await?;
    lab.store.tombstone(&stream("b-1"), ExpectedRevision::Any).await?;
    let mut subscription = lab.subscribe(Query::category("a").or(Query::category("b")), None).await?;
    assert_eq!(catch_up(&mut subscription).await?, []);
    lab.write("a-1", 2).await?;
    let mut seen = Vec::new();
    take_until(&mut subscription, &mut seen, 2).await?;
    assert_eq!(seen, lab.of("a-1").await?);
    Ok(Tried::Yes)
}
