//! A token belongs to one history of one log; anywhere else it is refused, never misunderstood.

use factum::{Append, Error, LogIdentity, Position, Query, Read, Result, Token};

use crate::lab::{Lab, Tried, event, stream};

/// Every use of a token must be refused.
async fn is_refused_everywhere(lab: &Lab, token: Token) -> Result<()> {
    let refused = |what: &str, error: Option<Error>| match error {
        Some(Error::LogRewound(rewound)) => assert_eq!(rewound.token, token, "{what}"),
        other => panic!("{what} must refuse the token {token} as LogRewound, but: {other:?}"),
    };
    for read in [Read::all(), Read::stream(stream("a-1")), Read::query(Query::category("a"))] {
        refused("a read", lab.store.read(read.clone().beyond(token)).await.err());
        refused("a read backwards", lab.store.read(read.backwards().beyond(token)).await.err());
    }
    refused("a subscription", lab.subscribe(Query::all(), Some(token)).await.err());
    let guarded = Append::to(stream("a-1"), [event("E")]).expect_none(Query::types(["Nope"])?, token);
    refused("a guard", Some(lab.refused(guarded).await?));
    Ok(())
}

pub async fn a_token_of_another_log_is_refused(lab: Lab) -> Result<Tried> {
    lab.write("a-1", 3).await?;
    let other = lab.another(factum::Limits::default()).await?;
    assert_ne!(lab.log().await?.log_id, other.log().await?.log_id, "two logs have the same id");
    other.write("a-1", 1).await?;
    is_refused_everywhere(&lab, other.head().await?).await?;
    is_refused_everywhere(&lab, Token { position: Position::START, ..other.head().await? }).await?;
    Ok(Tried::Yes)
}

pub async fn a_token_of_another_epoch_is_refused(lab: Lab) -> Result<Tried> {
    let head = lab.write("a-1", 3).await?.token;
    let log = LogIdentity { epoch: head.log.epoch + 1, ..head.log };
    is_refused_everywhere(&lab, Token { log, ..head }).await?;
    Ok(Tried::Yes)
}

pub async fn a_token_past_the_head_is_refused(lab: Lab) -> Result<Tried> {
    let head = lab.write("a-1", 3).await?.token;
    for position in [head.position.0 + 1, head.position.0 + 1_000_000, u64::MAX] {
        is_refused_everywhere(&lab, head.log.at(Position(position))).await?;
    }
    lab.store.read(Read::all().beyond(head)).await?;
    lab.subscribe(Query::all(), Some(head)).await?;
    Ok(Tried::Yes)
}

pub async fn a_new_epoch_refuses_the_old_tokens(lab: Lab) -> Result<Tried> {
    let old = lab.write("a-1", 3).await?.token;
    let mut subscription = lab.subscribe(Query::all(), None).await?;
    crate::lab::catch_up(&mut subscription).await?;
    if !lab.harness().begin_epoch() {
        return Ok(Tried::Skipped("the harness cannot begin an epoch"));
    }
    is_refused_everywhere(&lab, old).await?;
    assert!(matches!(subscription.next().await, Err(Error::LogRewound(_))), "a subscriber must hear of it");
    let new = lab.write("a-1", 1).await?.token;
    assert!(new.log.epoch > old.log.epoch && new.log.log_id == old.log.log_id);
    assert_eq!(lab.all().await?.len(), 4);
    Ok(Tried::Yes)
}

pub async fn every_token_names_the_log(lab: Lab) -> Result<Tried> {
    let log = lab.log().await?;
    let appended = lab.write("a-1", 3).await?;
    let page = lab.store.read(Read::all().limit(1)).await?;
    let next = match page.next {
        Some(factum::Start::Beyond(token)) => token.log,
        other => panic!("a page of everything goes on at a token, not at {other:?}"),
    };
    assert_eq!([appended.token.log, page.token.log, page.head.log, next, lab.head().await?.log], [log; 5]);
    Ok(Tried::Yes)
}
