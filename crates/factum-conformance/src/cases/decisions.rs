//! Decisions of the domain's layer on the store that is tried: two rules that no stream owns hold, however many decide at once.

use std::{collections::BTreeMap, sync::Arc};

use factum::{Decide, Event, Factum, Failure, Model, Query, Recorded, Result, Writes, refuse_if};
use serde::{Deserialize, Serialize};
use tokio::{sync::Barrier, task::JoinSet};

use crate::lab::{Lab, Tried};

/// How many ask at the same time.
const RACERS: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
enum CourseEvent {
    Subscribed { course: usize, student: usize },
}

impl Event for CourseEvent {
    const CATEGORY: &'static str = "course";

    fn tags(&self) -> Vec<String> {
        let Self::Subscribed { course, student } = self;
        vec![format!("course:{course}"), format!("student:{student}")]
    }
}

/// How many subscriptions have a tag.
#[derive(Debug)]
struct Taken {
    tag: String,
    count: usize,
}

impl Taken {
    fn of(tag: String) -> Self {
        Self { tag, count: 0 }
    }
}

impl Model for Taken {
    type Event = CourseEvent;

    fn query(&self) -> Result<Query> {
        Query::kinds::<CourseEvent>(["Subscribed"])?.tag(&self.tag)
    }

    fn apply(&mut self, _: &Recorded<CourseEvent>) {
        self.count += 1;
    }
}

/// Gives a student a seat in a course, if the course has one and the student may have another.
#[derive(Clone, Copy, Debug)]
struct Subscribe {
    course: usize,
    student: usize,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    seats: usize,
    courses: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("the course is full")]
    Full,
    #[error("the student takes enough courses")]
    Enough,
}

impl Decide for Subscribe {
    type Models = (Taken, Taken);
    type Error = Refusal;

    fn models(&self) -> Self::Models {
        (Taken::of(format!("course:{}", self.course)), Taken::of(format!("student:{}", self.student)))
    }

    fn decide(&self, (in_course, by_student): &Self::Models) -> Result<Writes, Refusal> {
        refuse_if(in_course.count >= self.limits.seats, Refusal::Full)?;
        refuse_if(by_student.count >= self.limits.courses, Refusal::Enough)?;
        let Self { course, student, .. } = *self;
        Ok(Writes::to_stream(format!("course-{course}"), [CourseEvent::Subscribed { course, student }]))
    }
}

/// Who sits where in the end, by what the log says.
#[derive(Debug, Default)]
struct Seated {
    in_course: BTreeMap<usize, usize>,
    by_student: BTreeMap<usize, usize>,
}

/// Each racer asks for its seats one after the other, all racers at once. Then neither limit is exceeded, as many seats are
/// taken as were acknowledged, and nobody was refused without need: nothing is ever given back here, so what was full is full.
async fn rush(lab: &Lab, racers: Vec<Vec<Subscribe>>) -> Result<Seated> {
    let barrier = Arc::new(Barrier::new(racers.len()));
    let mut tasks = JoinSet::new();
    for wishes in racers {
        let (barrier, factum) = (barrier.clone(), Factum::from_arc(lab.store.clone()));
        tasks.spawn(async move {
            barrier.wait().await;
            let mut answers = Vec::new();
            for wish in wishes {
                let refused = match factum.decide(wish).await {
                    Ok(_) => None,
                    Err(Failure::Refused(refusal)) => Some(refusal),
                    Err(Failure::Store(error)) => return Err(error),
                };
                answers.push((wish, refused));
            }
            Ok(answers)
        });
    }
    let answers: Vec<_> = tasks.join_all().await.into_iter().collect::<Result<_>>()?;
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    let mut seated = Seated::default();
    for CourseEvent::Subscribed { course, student } in
        Recorded::decode_all(lab.all().await?)?.into_iter().map(|recorded| recorded.event)
    {
        *seated.in_course.entry(course).or_default() += 1;
        *seated.by_student.entry(student).or_default() += 1;
    }
    for (Subscribe { course, student, limits }, refused) in &answers {
        let taken = seated.in_course.get(course).copied().unwrap_or(0);
        let takes = seated.by_student.get(student).copied().unwrap_or(0);
        assert!(taken <= limits.seats, "course {course} has {} seats, and {taken} are taken", limits.seats);
        assert!(takes <= limits.courses, "student {student} takes {takes} of {} courses", limits.courses);
        match refused {
            Some(Refusal::Full) => assert_eq!(taken, limits.seats, "course {course} was not full"),
            Some(Refusal::Enough) => assert_eq!(takes, limits.courses, "student {student} had not enough"),
            None => {}
        }
    }
    let done = answers.iter().filter(|(_, refused)| refused.is_none()).count();
    assert_eq!(
        done,
        seated.in_course.values().sum::<usize>(),
        "as many seats are taken as were acknowledged"
    );
    Ok(seated)
}

pub async fn of_64_students_as_many_get_in_as_the_course_has_seats(lab: Lab) -> Result<Tried> {
    let limits = Limits { seats: 10, courses: 1 };
    let racers = (0..RACERS).map(|student| vec![Subscribe { course: 0, student, limits }]).collect();
    let seated = rush(&lab, racers).await?;
    assert_eq!((seated.in_course.get(&0), seated.by_student.len()), (Some(&10), 10));
    Ok(Tried::Yes)
}

pub async fn a_student_who_asks_for_64_courses_at_once_gets_as_many_as_allowed(lab: Lab) -> Result<Tried> {
    let limits = Limits { seats: 1, courses: 5 };
    let racers = (0..RACERS).map(|course| vec![Subscribe { course, student: 0, limits }]).collect();
    let seated = rush(&lab, racers).await?;
    assert_eq!((seated.by_student.get(&0), seated.in_course.len()), (Some(&5), 5));
    Ok(Tried::Yes)
}

pub async fn a_courses_seats_and_a_students_limit_both_hold_under_64_enrolments(lab: Lab) -> Result<Tried> {
    // Each student asks from four places at once, and everywhere for every course, in another order.
    const COURSES: usize = 6;
    let limits = Limits { seats: 6, courses: 3 };
    let wishes = |racer: usize| {
        let course = move |n| (racer / 16 + racer + n) % COURSES;
        (0..COURSES).map(|n| Subscribe { course: course(n), student: racer % 16, limits }).collect()
    };
    let seated = rush(&lab, (0..RACERS).map(wishes).collect()).await?;
    let full = seated.in_course.values().filter(|taken| **taken == limits.seats).count();
    assert!(full > 0, "no course is full: the race was none: {seated:?}");
    Ok(Tried::Yes)
}
