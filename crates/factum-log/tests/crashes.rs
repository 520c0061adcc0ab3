//! Crashes on the simulated disk, and the mistakes that they must bring to light.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its seed")]

use std::{sync::Arc, time::Duration};

use factum::{Append, Error, EventStore, EventStoreExt, NewEvent, Read, StreamName};
use factum_log::{
    Options,
    sim::{Bug, Crash, Cycles, SimDisk, notice, run},
};

fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

#[test]
fn every_promise_is_kept_through_crashes() {
    let report =
        run(&Cycles { seed: seed(), cycles: 2_000, bug: None }, |_| {}).unwrap_or_else(|f| panic!("{f}"));
    // A driver that never reaches the hard places proves nothing.
    assert!(report.power_cuts > 500 && report.in_recovery > 100, "{report:?}");
    assert!(report.acknowledged > 1_000 && report.unknown_found > 20, "{report:?}");
    assert!(report.left_by_failure > 100 && report.rot_refused > 5 && report.disk_full > 0, "{report:?}");
}

fn is_noticed(bug: Bug) {
    let noticed =
        notice(bug, seed(), Duration::from_secs(10)).expect("it must be noticed within ten seconds");
    println!("{bug:?}: after {:.2} s, {}", noticed.after.as_secs_f64(), noticed.failure);
}

macro_rules! noticed {
    ($($name:ident: $bug:ident,)*) => {$(
        #[test]
        fn $name() {
            is_noticed(Bug::$bug);
        }
    )*};
}

noticed! {
    answering_before_the_sync_is_noticed: AckBeforeSync,
    not_syncing_names_is_noticed: NoNameSync,
    believing_a_header_without_its_body_is_noticed: HeaderOnlyCrc,
    not_syncing_in_recovery_is_noticed: NoSyncInRecovery,
    believing_the_page_cache_is_noticed: NoRewrite,
    rolling_without_a_sync_is_noticed: RollWithoutSync,
    retrying_a_failed_sync_is_noticed: RetryAfterFailedSync,
    cutting_acknowledged_events_off_is_noticed: NaiveTruncation,
    going_on_after_a_failed_roll_is_noticed: GoOnAfterFailedRoll,
    packing_without_a_sync_is_noticed: PackWithoutSync,
    removing_the_old_file_before_the_packed_one_has_its_name_is_noticed: RemoveBeforePacked,
    removing_a_visible_event_is_noticed: RemoveOneTooMany,
    removing_by_a_clock_that_may_be_set_back_is_noticed: RemoveByTheClock,
    forgetting_the_id_of_a_removed_event_is_noticed: StubWithoutId,
    forgetting_the_content_of_a_removed_event_is_noticed: StubWithoutContent,
    going_on_after_a_failed_sync_is_noticed: GoOnAfterFailedSync,
    naming_a_segment_before_its_header_is_synced_is_noticed: NoHeaderSync,
    showing_what_is_not_synced_is_noticed: ShowBeforeSync,
    answering_a_replay_before_the_sync_is_noticed: ReplayBeforeSync,
    leaving_the_last_frame_without_a_witness_is_noticed: NoMark,
    cutting_torn_frames_off_without_a_copy_is_noticed: CutWithoutCopy,
    taking_a_full_disk_for_a_broken_one_is_noticed: PoisonedByFullDisk,
    not_syncing_a_run_of_the_index_is_noticed: NoRunSync,
}

fn event(bytes: usize) -> Append {
    Append::to(StreamName::new("s-1").unwrap(), [NewEvent::bytes("E", vec![7; bytes]).unwrap()])
}

#[tokio::test]
async fn a_full_disk_refuses_appends_until_there_is_room_again() {
    let disk = SimDisk::new(1);
    let store = Options::new("unused").segments(8192, 8192).open_on(Arc::new(disk.clone())).unwrap();
    disk.room(12_000);
    let mut accepted = 0;
    let refused = loop {
        match store.append(event(500)).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Error::StorageFull { .. }), "{refused}");
    assert_eq!(
        refused.to_string(),
        "the disk is full: there is no room for sim/0000000002.segment; free some space, then try again"
    );
    assert_eq!(store.read_to_end(Read::all()).await.unwrap().len(), accepted, "reads go on");
    disk.room(u64::MAX);
    store.append(event(500)).await.unwrap();
    assert_eq!(store.read_to_end(Read::all()).await.unwrap().len(), accepted + 1);
}

#[tokio::test]
async fn a_failed_sync_ends_appends_but_not_reads_and_a_restart_mends_it() {
    let disk = SimDisk::new(2);
    let open = || Options::new("unused").open_on(Arc::new(disk.clone()));
    let store = open().unwrap();
    store.append(event(10)).await.unwrap();
    disk.syncs(255, 0);
    let mut failed = store.append(event(10)).await;
    while failed.is_ok() {
        failed = store.append(event(10)).await;
    }
    let failed = failed.unwrap_err();
    assert!(matches!(failed, Error::Poisoned { outcome: factum::Outcome::Unknown, .. }), "{failed}");
    disk.syncs(0, 0);
    let after = store.append(event(10)).await.unwrap_err();
    assert!(matches!(after, Error::Poisoned { outcome: factum::Outcome::No, .. }), "{after}");
    let before = store.read_to_end(Read::all()).await.unwrap().len();
    assert!(before >= 1);
    assert!(store.close().await.is_err(), "closing tells of it");
    drop(store);
    disk.restart(Crash::Kill);
    let store = open().unwrap();
    assert!(store.read_to_end(Read::all()).await.unwrap().len() >= before);
    store.append(event(10)).await.unwrap();
}

#[tokio::test]
async fn a_store_left_alone_has_a_witness_for_its_last_append() {
    let disk = SimDisk::new(3);
    let store = Options::new("unused").open_on(Arc::new(disk.clone())).unwrap();
    store.append(event(100)).await.unwrap();
    // The mark and its sync are three operations: a write and a sync after those of the append itself.
    let appended = disk.operations();
    while disk.operations() < appended + 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    disk.crash_after(0);
    drop(store);
    disk.restart(Crash::PowerCut);
    assert!(disk.rot("0000000001.segment", 4096 + 70, 3));
    let refused = Options::new("unused").open_on(Arc::new(disk)).unwrap_err();
    assert!(matches!(refused, Error::Corrupt(_)), "an acknowledged event is not cut off: {refused}");
}
