//! Looking from an earlier moment.

use factum::{AsOf, EventStoreExt, Position, Read, Result, Timestamp};

use crate::lab::{Lab, Tried, second, stream};

/// Positions that a read of everything shows.
async fn positions(lab: &Lab, read: Read) -> Result<Vec<Position>> {
    Ok(lab.store.read_to_end(read).await?.iter().map(|event| event.position).collect())
}

pub async fn as_of_a_position_shows_the_log_as_it_was(lab: Lab) -> Result<Tried> {
    let mut heads = vec![lab.head().await?.position];
    for n in 0..12 {
        heads.push(lab.write(if n % 2 == 0 { "a-1" } else { "b-1" }, 1 + n % 3).await?.token.position);
    }
    let all = positions(&lab, Read::all()).await?;
    for head in heads {
        let expected: Vec<_> = all.iter().copied().filter(|position| *position <= head).collect();
        assert_eq!(positions(&lab, Read::all().as_of(AsOf::Position(head))).await?, expected);
        let mut backwards =
            positions(&lab, Read::all().backwards().limit(2).as_of(AsOf::Position(head))).await?;
        backwards.reverse();
        assert_eq!(backwards, expected);
        let page = lab.store.read(Read::all().as_of(AsOf::Position(head))).await?;
        assert!(
            page.token.position <= head,
            "the read has not looked beyond {head}, but its token says {}",
            page.token
        );
        for name in ["a-1", "b-1"] {
            let then = lab.store.read_to_end(Read::stream(stream(name)).as_of(AsOf::Position(head))).await?;
            let now = lab.of(name).await?;
            assert_eq!(then[..], now[..then.len()]);
            assert!(now[then.len()..].iter().all(|event| event.position > head));
        }
    }
    let future = Position(u64::MAX);
    assert_eq!(positions(&lab, Read::all().as_of(AsOf::Position(future))).await?, all);
    Ok(Tried::Yes)
}

pub async fn as_of_a_time_shows_what_was_recorded_by_then(lab: Lab) -> Result<Tried> {
    for n in 0..10 {
        if let Some(clock) = lab.clock() {
            clock.set(100 + n / 3 * 10);
        }
        lab.write("a-1", 2).await?;
    }
    let all = lab.all().await?;
    let times: Vec<Timestamp> = all.iter().map(|event| event.recorded_at).collect();
    let around = times.iter().flat_map(|time| [Timestamp(time.0 - 1), *time, Timestamp(time.0 + 1)]);
    for time in around.chain([Timestamp(i64::MIN), Timestamp(i64::MAX)]) {
        let expected: Vec<_> = all.iter().filter(|event| event.recorded_at <= time).cloned().collect();
        assert_eq!(
            lab.store.read_to_end(Read::all().as_of(AsOf::Time(time))).await?,
            expected,
            "as of {time}"
        );
        let of_stream = Read::stream(stream("a-1")).limit(3).as_of(AsOf::Time(time));
        assert_eq!(lab.store.read_to_end(of_stream).await?, expected);
    }
    Ok(Tried::Yes)
}

pub async fn events_of_the_same_time_are_seen_together(lab: Lab) -> Result<Tried> {
    let Some(clock) = lab.clock() else { return Ok(Tried::Skipped("the harness has no clock to stop")) };
    clock.set(100);
    let last = [lab.write("a-1", 3).await?, lab.write("b-1", 1).await?, lab.write("a-1", 1).await?][2].token;
    clock.set(200);
    lab.write("a-1", 1).await?;
    for (time, count) in [(99, 0), (100, 5), (199, 5), (200, 6)] {
        let seen = positions(&lab, Read::all().as_of(AsOf::Time(second(time)))).await?;
        assert_eq!(seen.len(), count, "as of second {time}");
        assert!(count != 5 || seen.last() == Some(&last.position));
    }
    Ok(Tried::Yes)
}

pub async fn time_never_runs_backwards_in_the_log(lab: Lab) -> Result<Tried> {
    let Some(clock) = lab.clock() else { return Ok(Tried::Skipped("the harness has no clock to turn back")) };
    let mut heads = Vec::new();
    for now in [100, 50, 120, 0, 119, 121] {
        clock.set(now);
        heads.push(lab.write("a-1", 1).await?.token.position);
    }
    let recorded: Vec<Timestamp> = lab.all().await?.iter().map(|event| event.recorded_at).collect();
    assert_eq!(recorded, [100, 100, 120, 120, 120, 121].map(second));
    assert!(heads.is_sorted(), "order does not depend on the clock");
    assert_eq!(positions(&lab, Read::all().as_of(AsOf::Time(second(119)))).await?, heads[..2]);
    assert_eq!(lab.store.head().await?.recorded_at, Some(second(121)));
    Ok(Tried::Yes)
}

pub async fn a_moment_before_the_start_of_a_read_shows_nothing(lab: Lab) -> Result<Tried> {
    let early = lab.write("a-1", 2).await?.token;
    let late = lab.write("a-1", 2).await?.token;
    let page = lab.store.read(Read::all().beyond(late).as_of(AsOf::Position(early.position))).await?;
    assert_eq!((page.events.len(), page.next), (0, None));
    let page =
        lab.store.read(Read::all().backwards().beyond(late).as_of(AsOf::Position(early.position))).await?;
    assert_eq!(page.events.len(), 2);
    Ok(Tried::Yes)
}
