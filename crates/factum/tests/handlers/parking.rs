//! What cannot be handled is set aside, holds up its key, and no other.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering::SeqCst};

use factum::{
    Append, Error, MemoryReads, NewEvent, State, StreamName,
    handler::{Order, Standing},
    prelude::*,
};

use crate::support::*;

#[tokio::test]
async fn what_is_refused_is_parked_with_what_follows_and_goes_on_in_order_once_it_is_mended() {
    let (factum, reads, shipping) = (factum(), MemoryReads::new(), Shipping::poisoned_by([2]));
    place(&factum, "order-a", [1, 2, 3]).await;
    place(&factum, "order-b", [4, 5]).await;
    let processor = factum.handler(shipping.clone()).attempts(2).start(Arc::new(reads)).await.unwrap();
    let to = place(&factum, "order-a", [6]).await;
    settled(&processor, to).await;
    assert_eq!((shipping.done.of("order-a"), shipping.done.of("order-b")), (vec![1], vec![4, 5]));
    let letters = processor.parked().list().await.unwrap();
    let seen: Vec<_> = letters.iter().map(|l| (l.standing, l.attempts)).collect();
    use Standing::{Parked, Queued};
    assert_eq!(seen, [(Parked, 2), (Queued, 0), (Queued, 0)]);
    let last = letters[0].last.as_ref().unwrap();
    assert!(last.why.contains("nobody ships 2"), "{last:?}");
    let at = letters[0].position;
    let text = letters[0].to_string();
    assert!(
        text.starts_with(&format!("`Placed` at position {at} in `order-a` (key `order-a`) is parked")),
        "{text}"
    );

    shipping.mend();
    let asked = processor.parked().retry("order-a").await.unwrap();
    settled(&processor, asked).await;
    until("all is handled", || async { processor.parked().list().await.unwrap().is_empty() }).await;
    assert_eq!(shipping.done.of("order-a"), [1, 2, 3, 6]);
    let to = place(&factum, "order-a", [7]).await;
    processor.wait_for(to).await.unwrap();
    assert_eq!(shipping.done.of("order-a"), [1, 2, 3, 6, 7], "the key is free again");
}

#[tokio::test]
async fn what_was_refused_once_is_tried_again_by_itself() {
    let (factum, shipping) = (factum(), Shipping::poisoned_by([1]));
    let to = place(&factum, "order-a", [1, 2]).await;
    let processor = factum.handle(shipping.clone(), MemoryReads::new()).await.unwrap();
    processor.wait_for(to).await.unwrap();
    shipping.mend();
    until("it is handled", || async { shipping.done.of("order-a") == [1, 2] }).await;
    until("it is no longer set aside", || async { keys(processor.parked()).await.is_empty() }).await;
}

#[tokio::test]
async fn what_was_set_aside_is_there_after_a_restart() {
    let (factum, reads, shipping) = (factum(), MemoryReads::new(), Shipping::poisoned_by([1]));
    let start = || factum.handler(shipping.clone()).attempts(1).start(Arc::new(reads.clone()));
    let processor = start().await.unwrap();
    let to = place(&factum, "order-a", [1, 2]).await;
    settled(&processor, to).await;
    processor.stop().await;
    // Asked of nobody: it is obeyed when there is somebody.
    shipping.mend();
    let parked = factum.parked("shipping", Arc::new(reads.clone())).unwrap();
    assert_eq!(keys(&parked).await, ["a", "a"]);
    parked.retry_all().await.unwrap();
    let processor = start().await.unwrap();
    until("all is handled", || async { keys(processor.parked()).await.is_empty() }).await;
    assert_eq!(shipping.done.of("order-a"), [1, 2]);
}

#[tokio::test]
async fn what_cannot_be_read_is_parked_at_once() {
    let (factum, shipping) = (factum(), Shipping::default());
    let strange = [
        NewEvent::json("Lost", &serde_json::json!({})).unwrap(),
        NewEvent::json_text("Placed", r#"{"n":"many"}"#).unwrap(),
    ];
    for (event, stream) in strange.into_iter().zip(["order-a", "order-b"]) {
        factum.store().append(Append::to(StreamName::new(stream).unwrap(), [event])).await.unwrap();
    }
    let to = place(&factum, "order-c", [1]).await;
    let processor = factum.handle(shipping.clone(), MemoryReads::new()).await.unwrap();
    processor.wait_for(to).await.unwrap();
    let letters = processor.parked().list().await.unwrap();
    let why: Vec<_> = letters.iter().map(|l| (l.standing, l.attempts, l.last.clone().unwrap().why)).collect();
    assert_eq!((why[0].0, why[0].1, why[1].0, why[1].1), (Standing::Parked, 1, Standing::Parked, 1));
    assert!(why[0].2.contains("Lost") && why[1].2.contains("cannot be read"), "{why:?}");
    assert_eq!(shipping.done.of("order-c"), [1]);
}

#[tokio::test]
async fn a_panic_is_a_refusal_of_that_event_alone() {
    let (factum, shipping) = (factum(), Shipping::default());
    shipping.explosive.lock().unwrap().extend([3]);
    for n in 1..=5 {
        place(&factum, &format!("order-{n}"), [n]).await;
    }
    let to = place(&factum, "order-5", [6]).await;
    let processor =
        factum.handler(shipping.clone()).attempts(1).start(Arc::new(MemoryReads::new())).await.unwrap();
    settled(&processor, to).await;
    let letters = processor.parked().list().await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].last.as_ref().unwrap().why.contains("number 3 explodes"), "{letters:?}");
    assert_eq!((shipping.done.count(), shipping.calls.load(SeqCst)), (5, 6), "the others once each");
}

#[tokio::test]
async fn one_is_skipped_and_a_key_discarded_and_the_log_says_by_whom_and_why() {
    let (factum, shipping) = (factum(), Shipping::poisoned_by([1, 10]));
    place(&factum, "order-a", [1, 2]).await;
    let to = place(&factum, "order-b", [10, 11]).await;
    let processor =
        factum.handler(shipping.clone()).attempts(1).start(Arc::new(MemoryReads::new())).await.unwrap();
    settled(&processor, to).await;
    let parked = factum.acting_as("ada").parked("shipping", Arc::new(MemoryReads::new())).unwrap();
    assert!(matches!(parked.list().await, Err(Error::NotFound { .. })), "another store");
    let parked = processor.parked();
    let first = parked.list().await.unwrap()[0].position;
    assert!(matches!(parked.skip(first, " ").await, Err(Error::InvalidInput { .. })));
    assert!(matches!(parked.skip(Position(99), "why").await, Err(Error::NotFound { .. })));
    assert!(matches!(parked.discard("order-z", "why").await, Err(Error::NotFound { .. })));
    assert!(matches!(parked.retry("order-z").await, Err(Error::NotFound { .. })));
    parked.skip(first, "the customer is gone").await.unwrap();
    let asked = parked.discard("order-b", "a test").await.unwrap();
    settled(&processor, asked).await;
    until("both are dealt with", || async { keys(parked).await.is_empty() }).await;
    assert_eq!((shipping.done.of("order-a"), shipping.done.of("order-b")), (vec![2], vec![]));
    let to = place(&factum, "order-b", [12]).await;
    processor.wait_for(to).await.unwrap();
    assert_eq!(shipping.done.of("order-b"), [12]);
    let orders = factum::Read::stream(StreamName::new("$consumer-shipping").unwrap());
    let orders = Recorded::<Order>::decode_all(factum.store().read(orders).await.unwrap().events).unwrap();
    let why = "the customer is gone".to_owned();
    assert_eq!(orders[0].event, Order::SkipAsked { position: first, why });
    assert!(orders[0].record.metadata.correlation_id().is_some());
}

#[tokio::test]
async fn too_much_that_is_set_aside_stops_it_loudly_until_there_is_room() {
    let (factum, shipping) = (factum(), Shipping::poisoned_by(1..=4));
    for n in 1..=6 {
        place(&factum, &format!("order-{n}"), [n]).await;
    }
    let processing = factum.handler(shipping.clone()).attempts(1).parked_keys(3);
    let processor = processing.start(Arc::new(MemoryReads::new())).await.unwrap();
    let stopped = async || match processor.status().await.unwrap().partitions[0].state.clone() {
        Some(State::Stopped(why)) => why.to_string().contains("3 events of 3 keys are set aside"),
        _ => false,
    };
    until("it has stopped", &stopped).await;
    assert_eq!((shipping.done.count(), keys(processor.parked()).await.concat()), (0, "123".to_owned()));
    // What is asked of it reaches it all the same.
    processor.parked().discard("order-2", "nobody wants it").await.unwrap();
    until("it goes on", || async { keys(processor.parked()).await.concat() == "134" }).await;
    until("the others are handled", || async { shipping.done.count() == 2 }).await;
    assert_eq!(processor.status().await.unwrap().partitions[0].parked_keys, 3);
}

#[tokio::test]
async fn nothing_is_skipped_where_the_dead_letter_cannot_be_stored() {
    let (factum, reads, shipping) = (factum(), Failing::new(), Shipping::poisoned_by([2]));
    reads.no_letters.store(true, SeqCst);
    let to = place(&factum, "order-a", [1, 2, 3]).await;
    let processor =
        factum.handler(shipping.clone()).attempts(1).start(Arc::new(reads.clone())).await.unwrap();
    let tried = || async { shipping.calls.load(SeqCst) > 10 };
    until("it has tried again and again", tried).await;
    let catalog = factum::ReadStore::catalog(&reads, "shipping_p0").await.unwrap();
    let checkpoint = catalog.active.unwrap().checkpoint.map(|token| token.position);
    let poison = factum.store().read(factum::Read::all().limit(2)).await.unwrap().events[1].position;
    assert!(checkpoint < Some(poison), "{checkpoint:?}");
    reads.no_letters.store(false, SeqCst);
    settled(&processor, to).await;
    assert_eq!(keys(processor.parked()).await, ["a", "a"]);
}

/// 1 % of the events are poison, over 10,000 keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_in_many_keys_holds_up_no_other_and_keeps_each_in_order() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (factum, shipping) = (factum(), Shipping::default());
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut poison = Vec::new();
    for n in 0..20_000_u64 {
        // Each key has at least one event.
        let key = if n < 10_000 { n } else { random.u64(0..10_000) };
        let stream = format!("order-{key}");
        place(&factum, &stream, [n]).await;
        expected.entry(stream).or_default().push(n);
        if random.u32(0..100) == 0 {
            poison.push(n);
        }
    }
    shipping.poison.lock().unwrap().extend(poison.iter().copied());
    let processing = factum.handler(shipping.clone()).attempts(2).parked_keys(poison.len() + 1);
    let processor = processing.start(Arc::new(MemoryReads::new())).await.unwrap();
    let to = factum.store().head().await.unwrap().token;
    settled(&processor, to).await;
    let healthy =
        |events: &[u64]| events.iter().take_while(|n| !poison.contains(n)).copied().collect::<Vec<_>>();
    for (stream, events) in &expected {
        assert_eq!(shipping.done.of(stream), healthy(events), "{stream}: up to the first poison, in order");
    }
    // Others lag by nothing that can be seen while so much is parked.
    let fresh = place(&factum, "order-fresh", [99_999]).await;
    let begun = tokio::time::Instant::now();
    processor.wait_for(fresh).await.unwrap();
    assert!(begun.elapsed().as_secs_f64() < 1.0, "{:?}", begun.elapsed());
    shipping.mend();
    let asked = processor.parked().retry_all().await.unwrap();
    processor.wait_for(asked).await.unwrap();
    until("all is handled", || async { keys(processor.parked()).await.is_empty() }).await;
    expected.insert("order-fresh".into(), vec![99_999]);
    assert_eq!(shipping.done.all(), expected, "each event once, in the order of its key");
}
