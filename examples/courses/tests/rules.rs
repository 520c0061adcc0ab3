//! The rules, and that both hold when everybody comes at once.
#![allow(clippy::unwrap_used, reason = "a test")]

use courses::{
    COURSES_PER_STUDENT, ChangeSeats, CourseEvent, Offer, Refusal, Roster, Subscribe, Unsubscribe,
};
use factum::{prelude::*, testkit::given};

fn course(id: &str, events: impl IntoIterator<Item = CourseEvent>) -> Writes {
    Writes::to_stream(format!("course-{id}"), events)
}

fn offered(course: &str, seats: usize) -> CourseEvent {
    CourseEvent::Offered { course: course.into(), seats }
}

fn subscribed(course: &str, student: &str) -> CourseEvent {
    CourseEvent::Subscribed { course: course.into(), student: student.into() }
}

fn subscribe(student: &str, course: &str) -> Subscribe {
    Subscribe { student: student.into(), course: course.into() }
}

#[test]
fn a_seat_is_taken_while_there_is_one() {
    let algebra = |taken: &[&str]| {
        let taken = taken.iter().map(|student| subscribed("algebra", student));
        given(course("algebra", [offered("algebra", 2)].into_iter().chain(taken)))
    };
    algebra(&["ada"])
        .when(subscribe("bob", "algebra"))
        .then(course("algebra", [subscribed("algebra", "bob")]));
    algebra(&["ada"]).when(subscribe("ada", "algebra")).then_nothing();
    algebra(&["ada", "bob"]).when(subscribe("eve", "algebra")).then_refused(Refusal::CourseFull);
    algebra(&["ada", "bob"]).when(subscribe("eve", "botany")).then_refused(Refusal::NoSuchCourse);
}

#[test]
fn a_student_takes_so_many_courses_and_no_more() {
    let mut past = course("last", [offered("last", 100)]);
    for n in 0..COURSES_PER_STUDENT {
        let id = n.to_string();
        past = past.and_stream(format!("course-{id}"), [offered(&id, 1), subscribed(&id, "ada")]);
    }
    given(past).when(subscribe("ada", "last")).then_refused(Refusal::TooManyCourses);
}

#[test]
fn a_seat_that_is_given_back_is_free_again() {
    let past = || {
        let left = CourseEvent::Unsubscribed { course: "algebra".into(), student: "ada".into() };
        given(course("algebra", [offered("algebra", 1), subscribed("algebra", "ada"), left]))
    };
    past().when(subscribe("bob", "algebra")).then(course("algebra", [subscribed("algebra", "bob")]));
    let again = Unsubscribe { student: "ada".into(), course: "algebra".into() };
    past().when(again).then_refused(Refusal::NotSubscribed);
}

#[test]
fn seats_are_never_fewer_than_are_taken() {
    let past = || given(course("algebra", [offered("algebra", 2), subscribed("algebra", "ada")]));
    let change = |seats| ChangeSeats { course: "algebra".into(), seats };
    past().when(change(0)).then_refused(Refusal::SeatsTaken);
    past().when(change(2)).then_nothing();
    let changed = CourseEvent::SeatsChanged { course: "algebra".into(), seats: 1 };
    past().when(change(1)).then(course("algebra", [changed]));
    past().when(Offer { course: "algebra".into(), seats: 3 }).then_refused(Refusal::OfferedAlready);
}

/// Every student asks for every course, all at once.
async fn rush(factum: &Factum) {
    const COURSES: usize = 8;
    for course in 0..COURSES {
        factum.decide(Offer { course: course.to_string(), seats: 10 }).await.unwrap();
    }
    let mut asked = tokio::task::JoinSet::new();
    for student in 0..64 {
        for course in 0..COURSES {
            let (factum, wish) = (factum.clone(), subscribe(&student.to_string(), &course.to_string()));
            asked.spawn(async move {
                match factum.decide(wish).await {
                    Ok(_) | Err(Failure::Refused(_)) => {}
                    Err(Failure::Store(error)) => panic!("{error}"),
                }
            });
        }
    }
    asked.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_limits_hold_in_a_rush_and_no_seat_is_left_free() {
    let directory = tempfile::tempdir().unwrap();
    let factum = Factum::new(factum_log::LogStore::open(directory.path()).unwrap());
    let roster = factum.project(Roster, factum_sqlite::Sqlite::memory().unwrap()).await.unwrap();
    rush(&factum).await;
    roster.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    let rows = roster.all().await.unwrap();
    assert_eq!(rows.len(), 8);
    let mut of_student = std::collections::BTreeMap::<&str, usize>::new();
    for (course, row) in &rows {
        assert_eq!((row.students.len(), row.seats), (10, 10), "course {course}");
        row.students.iter().for_each(|student| *of_student.entry(student).or_default() += 1);
    }
    assert!(of_student.values().all(|courses| *courses <= COURSES_PER_STUDENT), "{of_student:?}");
}
