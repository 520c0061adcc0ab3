//! Errors advise: what to do, whether to try again, and whether it can have happened.

use factum::{Append, Error, ExpectedRevision, Outcome, Query, Read, Result, Revision};

use crate::lab::{Lab, Tried, event, events, stream};

pub async fn what_was_refused_did_not_happen_and_is_not_worth_sending_again(lab: Lab) -> Result<Tried> {
    let old = event("Old");
    lab.append(Append::to(stream("a-1"), [old.clone()])).await?;
    let mut foreign = lab.head().await?;
    foreign.log.epoch += 7;
    let refused = [
        Append::to(stream("a-1"), [event("E")]).expect(stream("a-1"), ExpectedRevision::Exact(Revision(9))),
        Append::to(stream("a-1"), [old, event("New")]),
        Append::new(),
        Append::to(stream("a-1"), events("E", 10_001)),
        Append::to(stream("a-1"), [event("E")]).expect_none(Query::all(), foreign),
    ];
    for append in refused {
        let error = lab.refused(append).await?;
        assert_eq!((error.is_retryable(), error.outcome()), (false, Outcome::No), "{error:?}");
        let text = error.to_string();
        assert!(text.len() > 20 && !text.contains('\n'), "an error is one clear sentence: {text:?}");
    }
    Ok(Tried::Yes)
}

pub async fn a_refusal_says_what_it_is_about(lab: Lab) -> Result<Tried> {
    lab.write("account-17", 3).await?;
    let guarded = Append::to(stream("b-1"), [event("E")])
        .expect(stream("account-17"), ExpectedRevision::Exact(Revision(7)));
    let text = lab.refused(guarded).await?.to_string();
    for part in ["account-17", "7", "2"] {
        assert!(text.contains(part), "{text:?} does not say {part}");
    }
    let mut lost = lab.head().await?;
    lost.position.0 += 41;
    let text = lab
        .store
        .read(Read::all().beyond(lost))
        .await
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    for part in [lost.position.to_string(), lab.head().await?.position.to_string()] {
        assert!(text.contains(&part), "{text:?} does not say {part}");
    }
    Ok(Tried::Yes)
}

pub async fn after_any_refusal_the_store_goes_on(lab: Lab) -> Result<Tried> {
    for n in 0..20 {
        let refused =
            Append::to(stream("a-1"), [event("E")]).expect(stream("never"), ExpectedRevision::StreamExists);
        assert!(matches!(lab.append(refused).await, Err(Error::Conflict(_))));
        assert_eq!(lab.write("a-1", 1).await?.events[0].revision, Revision(n));
    }
    Ok(Tried::Yes)
}
