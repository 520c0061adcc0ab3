//! Values on their way into statements and out of rows.

use factum::{Error, Result};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

/// A value, as SQLite knows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `NULL`.
    Null,
    /// A whole number. Truth is 1 or 0.
    Integer(i64),
    /// A number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

macro_rules! into_value {
    ($($type:ty => $variant:ident($($convert:tt)*);)*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(($($convert)*)(value))
            }
        }
    )*};
}
into_value! {
    i64 => Integer(std::convert::identity);
    i32 => Integer(i64::from);
    u32 => Integer(i64::from);
    bool => Integer(i64::from);
    f64 => Real(std::convert::identity);
    String => Text(std::convert::identity);
    &str => Text(str::to_owned);
    &String => Text(String::clone);
    Vec<u8> => Blob(std::convert::identity);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

/// What a statement's `?1`, `?2` … stand for: `()`, a tuple of up to eight values, or a vector of [`Value`]s.
pub trait Params {
    /// The values in order.
    fn values(self) -> Vec<Value>;
}

impl Params for () {
    fn values(self) -> Vec<Value> {
        Vec::new()
    }
}

impl Params for Vec<Value> {
    fn values(self) -> Vec<Value> {
        self
    }
}

macro_rules! tuple_of_params {
    ($($name:ident $at:tt),*) => {
        impl<$($name: Into<Value>),*> Params for ($($name,)*) {
            fn values(self) -> Vec<Value> {
                vec![$(self.$at.into()),*]
            }
        }
    };
}
tuple_of_params!(A 0);
tuple_of_params!(A 0, B 1);
tuple_of_params!(A 0, B 1, C 2);
tuple_of_params!(A 0, B 1, C 2, D 3);
tuple_of_params!(A 0, B 1, C 2, D 3, E 4);
tuple_of_params!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple_of_params!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple_of_params!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// A row that a query gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub Vec<Value>);

impl Row {
    /// The value of a column, counted from 0.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there is no such column, or its value is of another kind.
    pub fn get<T: FromValue>(&self, column: usize) -> Result<T> {
        let wrong = |why: String| Error::invalid(format!("column {column} of a row"), why);
        let value =
            self.0.get(column).ok_or_else(|| wrong(format!("the row has {} columns", self.0.len())))?;
        T::from_value(value).ok_or_else(|| wrong(format!("it is {value:?}; ask for a type that fits")))
    }
}

/// What a [`Value`] can be read as.
pub trait FromValue: Sized {
    /// The value, if it is of this kind.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {$(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $pattern => Some($value),
                    _ => None,
                }
            }
        }
    )*};
}
from_value! {
    i64: Value::Integer(number) => *number;
    bool: Value::Integer(number) => *number != 0;
    f64: Value::Real(number) => *number;
    String: Value::Text(text) => text.clone();
    Vec<u8>: Value::Blob(bytes) => bytes.clone();
}

impl FromValue for Value {
    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
