//! The cases of decisions can fail: on a store that lets guards pass, each of them does.

use std::sync::Arc;

use async_trait::async_trait;
use factum::{Append, Appended, EventStore, Limits, MemoryStore, Page, Read, Result};
use factum_conformance::{Around, Harness, Lab, Tried, Wrapped, cases::decisions, run};

/// A store that looks at no guard of what it writes. Between a read and what follows it, others have their turn.
#[derive(Debug, Default)]
struct Unguarded(MemoryStore);

#[async_trait]
impl Around for Unguarded {
    fn store(&self) -> &dyn EventStore {
        &self.0
    }

    async fn append(&self, append: Append) -> Result<Appended> {
        if append.writes.is_empty() {
            return self.0.append(append).await;
        }
        self.0.append(Append { guards: Vec::new(), ..append }).await
    }

    async fn read(&self, read: Read) -> Result<Page> {
        let page = self.0.read(read).await?;
        tokio::task::yield_now().await;
        Ok(page)
    }
}

#[derive(Debug, Default)]
struct WithoutGuards;

#[async_trait]
impl Harness for WithoutGuards {
    async fn open(&mut self, _: Limits) -> Result<Arc<dyn EventStore>> {
        Ok(Arc::new(Wrapped(Unguarded::default())))
    }

    fn durable(&self) -> bool {
        false
    }
}

fn tried<F: Future<Output = Result<Tried>>>(case: impl FnOnce(Lab) -> F) {
    run(|| Box::new(WithoutGuards), case);
}

#[test]
#[should_panic(expected = "course 0 has 10 seats")]
fn a_course_overflows_without_guards() {
    tried(decisions::of_64_students_as_many_get_in_as_the_course_has_seats);
}

#[test]
#[should_panic(expected = "of 5 courses")]
fn a_student_takes_too_many_courses_without_guards() {
    tried(decisions::a_student_who_asks_for_64_courses_at_once_gets_as_many_as_allowed);
}

#[test]
#[should_panic(expected = "take")]
fn one_limit_or_the_other_breaks_without_guards() {
    tried(decisions::a_courses_seats_and_a_students_limit_both_hold_under_64_enrolments);
}
