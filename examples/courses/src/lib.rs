//! Students subscribe to courses. A course has so many seats, a student takes so many courses, and both must hold, however
//! many subscribe at once. No aggregate owns both rules, and none has to: a decision names what it must know.

use factum::prelude::*;

/// How many courses a student takes at most.
pub const COURSES_PER_STUDENT: usize = 5;

/// What can happen. Each event says which course and which student it concerns, so that it is found from both sides.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(category = "course")]
pub enum CourseEvent {
    /// A course with so many seats.
    Offered {
        /// Its id.
        #[tag]
        course: String,
        /// How many can subscribe.
        seats: usize,
    },
    /// The number of seats is another now.
    SeatsChanged {
        /// Which course.
        #[tag]
        course: String,
        /// How many can subscribe from now on.
        seats: usize,
    },
    /// A student has a seat.
    Subscribed {
        /// In which course.
        #[tag]
        course: String,
        /// Who.
        #[tag]
        student: String,
    },
    /// A student gave the seat back.
    Unsubscribed {
        /// In which course.
        #[tag]
        course: String,
        /// Who.
        #[tag]
        student: String,
    },
}

/// A course, as far as decisions must know it.
#[derive(Debug)]
pub struct Course {
    id: String,
    seats: Option<usize>,
    taken: usize,
}

impl Course {
    /// The course with this id, before its events are read.
    pub fn of(id: &str) -> Self {
        Self { id: id.into(), seats: None, taken: 0 }
    }

    fn must_be_offered(&self) -> Result<usize, Refusal> {
        self.seats.ok_or(Refusal::NoSuchCourse)
    }
}

impl Model for Course {
    type Event = CourseEvent;

    fn query(&self) -> factum::Result<Query> {
        CourseEvent::query()?.tag(&format!("course:{}", self.id))
    }

    fn apply(&mut self, event: &Recorded<CourseEvent>) {
        match &event.event {
            CourseEvent::Offered { seats, .. } | CourseEvent::SeatsChanged { seats, .. } => {
                self.seats = Some(*seats);
            }
            CourseEvent::Subscribed { .. } => self.taken += 1,
            CourseEvent::Unsubscribed { .. } => self.taken -= 1,
        }
    }
}

/// A student, as far as decisions must know one: the courses.
#[derive(Debug)]
pub struct Student {
    id: String,
    courses: Vec<String>,
}

impl Student {
    /// The student with this id, before any events are read.
    pub fn of(id: &str) -> Self {
        Self { id: id.into(), courses: Vec::new() }
    }

    fn takes(&self, course: &str) -> bool {
        self.courses.iter().any(|own| own == course)
    }
}

impl Model for Student {
    type Event = CourseEvent;

    fn query(&self) -> factum::Result<Query> {
        CourseEvent::query()?.tag(&format!("student:{}", self.id))
    }

    fn apply(&mut self, event: &Recorded<CourseEvent>) {
        match &event.event {
            CourseEvent::Subscribed { course, .. } => self.courses.push(course.clone()),
            CourseEvent::Unsubscribed { course, .. } => self.courses.retain(|own| own != course),
            CourseEvent::Offered { .. } | CourseEvent::SeatsChanged { .. } => {}
        }
    }
}

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was never offered.
    #[error("there is no such course")]
    NoSuchCourse,
    /// Its id is taken.
    #[error("the course is offered already")]
    OfferedAlready,
    /// All seats are taken.
    #[error("the course is full")]
    CourseFull,
    /// More are taken than there would be.
    #[error("more seats are taken already")]
    SeatsTaken,
    /// The student's limit.
    #[error("the student takes {COURSES_PER_STUDENT} courses already")]
    TooManyCourses,
    /// Nothing to give back.
    #[error("the student does not take this course")]
    NotSubscribed,
}

fn to(course: &str, event: CourseEvent) -> Writes {
    Writes::to_stream(format!("course-{course}"), [event])
}

/// Offers a course.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its id.
    pub course: String,
    /// How many can subscribe.
    pub seats: usize,
}

impl Decide for Offer {
    type Models = Course;
    type Error = Refusal;

    fn models(&self) -> Course {
        Course::of(&self.course)
    }

    fn decide(&self, course: &Course) -> Result<Writes, Refusal> {
        refuse_if(course.seats.is_some(), Refusal::OfferedAlready)?;
        Ok(to(&course.id, CourseEvent::Offered { course: course.id.clone(), seats: self.seats }))
    }
}

/// Gives a course another number of seats.
#[derive(Clone, Debug)]
pub struct ChangeSeats {
    /// Which.
    pub course: String,
    /// How many can subscribe from now on.
    pub seats: usize,
}

impl Decide for ChangeSeats {
    type Models = Course;
    type Error = Refusal;

    fn models(&self) -> Course {
        Course::of(&self.course)
    }

    fn decide(&self, course: &Course) -> Result<Writes, Refusal> {
        if course.must_be_offered()? == self.seats {
            return Ok(Writes::none());
        }
        refuse_if(self.seats < course.taken, Refusal::SeatsTaken)?;
        Ok(to(&course.id, CourseEvent::SeatsChanged { course: course.id.clone(), seats: self.seats }))
    }
}

/// Gives a student a seat in a course. Both limits are looked at, and both are guarded.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Who.
    pub student: String,
    /// In which course.
    pub course: String,
}

impl Decide for Subscribe {
    type Models = (Course, Student);
    type Error = Refusal;

    fn models(&self) -> (Course, Student) {
        (Course::of(&self.course), Student::of(&self.student))
    }

    fn decide(&self, (course, student): &(Course, Student)) -> Result<Writes, Refusal> {
        let seats = course.must_be_offered()?;
        if student.takes(&course.id) {
            return Ok(Writes::none());
        }
        refuse_if(course.taken >= seats, Refusal::CourseFull)?;
        refuse_if(student.courses.len() >= COURSES_PER_STUDENT, Refusal::TooManyCourses)?;
        let (student, id) = (student.id.clone(), course.id.clone());
        Ok(to(&course.id, CourseEvent::Subscribed { course: id, student }))
    }
}

/// Gives a seat back.
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    /// Who.
    pub student: String,
    /// From which course.
    pub course: String,
}

impl Decide for Unsubscribe {
    type Models = Student;
    type Error = Refusal;

    fn models(&self) -> Student {
        Student::of(&self.student)
    }

    fn decide(&self, student: &Student) -> Result<Writes, Refusal> {
        refuse_if(!student.takes(&self.course), Refusal::NotSubscribed)?;
        let event = CourseEvent::Unsubscribed { course: self.course.clone(), student: student.id.clone() };
        Ok(to(&self.course, event))
    }
}

/// A read model: who sits in a course, under the course's id.
#[derive(Clone, Copy, Debug)]
pub struct Roster;

/// A row of [`Roster`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seated {
    /// How many can subscribe.
    pub seats: usize,
    /// Who has, in the order of coming.
    pub students: Vec<String>,
}

impl Projection for Roster {
    const NAME: &'static str = "roster";
    type Event = CourseEvent;
    type Row = Seated;

    fn evolve(&self, row: Option<Seated>, event: &Recorded<CourseEvent>) -> Option<Seated> {
        let mut row = row.unwrap_or_default();
        match &event.event {
            CourseEvent::Offered { seats, .. } | CourseEvent::SeatsChanged { seats, .. } => {
                row.seats = *seats;
            }
            CourseEvent::Subscribed { student, .. } => row.students.push(student.clone()),
            CourseEvent::Unsubscribed { student, .. } => row.students.retain(|own| own != student),
        }
        Some(row)
    }
}
