//! 64 students want 10 seats in each of 8 courses, all at once, and each may take 5 courses.
#![allow(clippy::print_stdout, reason = "a demonstration talks")]

use std::collections::BTreeMap;

use courses::{COURSES_PER_STUDENT, Offer, Refusal, Roster, Subscribe};
use factum::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let factum = Factum::new(factum_log::LogStore::open("data")?);
    let roster = factum.project(Roster, factum_sqlite::Sqlite::open("read.db")?).await?;
    let courses = ["algebra", "biology", "chemistry", "drawing", "english", "french", "geography", "history"];
    for course in courses {
        match factum.decide(Offer { course: course.into(), seats: 10 }).await {
            Ok(_) | Err(Failure::Refused(Refusal::OfferedAlready)) => {}
            Err(failure) => return Err(failure.into()),
        }
    }

    let mut asked = tokio::task::JoinSet::new();
    for student in 0..64 {
        let factum = factum.acting_as(format!("student {student}"));
        asked.spawn(async move {
            let mut answers = Vec::new();
            for n in 0..courses.len() {
                let course = courses[(student + n) % courses.len()].into();
                answers.push(factum.decide(Subscribe { student: student.to_string(), course }).await);
            }
            answers
        });
    }
    let (mut told, mut decided_again) = (BTreeMap::new(), 0);
    for answer in asked.join_all().await.into_iter().flatten() {
        let outcome = match answer {
            Ok(done) => {
                decided_again += done.attempts - 1;
                "a seat, or had it".to_owned()
            }
            Err(Failure::Refused(refusal)) => refusal.to_string(),
            Err(Failure::Store(error)) => return Err(error.into()),
        };
        *told.entry(outcome).or_insert(0) += 1;
    }
    println!("{told:?}; decided again because others were quicker: {decided_again}");

    roster.wait_for(factum.store().head().await?.token).await?;
    let rows = roster.all().await?;
    let mut of_student = BTreeMap::new();
    for (course, row) in &rows {
        println!("{course}: {} of {} seats taken", row.students.len(), row.seats);
        row.students.iter().for_each(|student| *of_student.entry(student).or_insert(0) += 1);
    }
    let most = of_student.values().max().copied().unwrap_or(0);
    println!("no student takes more than {most} courses (allowed: {COURSES_PER_STUDENT})");
    Ok(())
}
