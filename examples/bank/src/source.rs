//! The bank's own files: CSV, read row by row, where each row is either understood whole or told by line and reason.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    marker::PhantomData,
    path::{Path, PathBuf},
    str::FromStr,
};

use csv_core::ReadRecordResult;
use jiff::civil::Date;

use crate::money::Money;

/// Bytes of one field, at most; the log holds whatever a field says, and a field of a bank is a word or a number.
const FIELD_BYTES: usize = 200;
/// Bytes of one line, at most.
const LINE_BYTES: u64 = 16 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why a file as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadFile {
    #[error("cannot read the {what} file {path}: {cause}")]
    Unreadable { what: &'static str, path: String, cause: io::Error },
    #[error("the {what} file {path} is empty; its first line must name the columns {columns}")]
    Empty { what: &'static str, path: String, columns: String },
    #[error("{path}, line {line}: {problem}; the {what} file must have the columns {columns}")]
    Header { what: &'static str, path: String, line: u64, columns: String, problem: String },
}

/// A kind of row, and how it is read.
pub(crate) trait FromRow: Sized {
    /// What the file is called in messages.
    const WHAT: &'static str;
    /// The columns, by name; a file may have them in any order.
    const COLUMNS: &'static [&'static str];

    /// Reads a row, or says why it cannot be read.
    fn from_row(fields: &Fields<'_>) -> Result<Self, String>;

    /// The account that the row is about.
    fn account(&self) -> &str;
}

/// An account, as the bank's file describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AccountRow {
    pub(crate) account: String,
    pub(crate) district: String,
    pub(crate) statement_frequency: String,
    pub(crate) opened_on: Date,
}

/// Whether money came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Credit,
    Debit,
}

/// A transaction, as the bank's file records it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TransactionRow {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) date: Date,
    pub(crate) direction: Direction,
    pub(crate) operation: String,
    pub(crate) purpose: String,
    /// Never negative: the direction says which way it went.
    pub(crate) amount: Money,
    pub(crate) balance_after: Money,
    pub(crate) counterparty_bank: String,
    pub(crate) counterparty_account: String,
}

impl FromRow for AccountRow {
    const WHAT: &'static str = "accounts";
    const COLUMNS: &'static [&'static str] =
        &["account_id", "district_id", "statement_frequency", "opened_on"];

    fn from_row(fields: &Fields<'_>) -> Result<Self, String> {
        Ok(Self {
            account: account(fields.text(0)?)?,
            district: fields.text(1)?.to_owned(),
            statement_frequency: fields.text(2)?.to_owned(),
            opened_on: fields.day(3)?,
        })
    }

    fn account(&self) -> &str {
        &self.account
    }
}

impl FromRow for TransactionRow {
    const WHAT: &'static str = "transactions";
    const COLUMNS: &'static [&'static str] = &[
        "transaction_id",
        "account_id",
        "date",
        "direction",
        "operation",
        "purpose",
        "amount",
        "balance_after",
        "counterparty_bank",
        "counterparty_account",
    ];

    fn from_row(fields: &Fields<'_>) -> Result<Self, String> {
        let id = fields.text(0)?;
        if id.is_empty() {
            return Err(
                "the transaction_id is empty; without it nobody can tell whether it is imported already"
                    .to_owned(),
            );
        }
        let amount: Money = fields.parsed(6)?;
        if amount.is_negative() {
            return Err(format!(
                "the amount {amount} is negative; the direction says which way the money went"
            ));
        }
        Ok(Self {
            id: id.to_owned(),
            account: account(fields.text(1)?)?,
            date: fields.day(2)?,
            direction: match fields.text(3)? {
                "credit" => Direction::Credit,
                "debit" => Direction::Debit,
                other => return Err(format!("the direction `{other}` is neither `credit` nor `debit`")),
            },
            operation: fields.text(4)?.to_owned(),
            purpose: fields.text(5)?.to_owned(),
            amount,
            balance_after: fields.parsed(7)?,
            counterparty_bank: fields.text(8)?.to_owned(),
            counterparty_account: fields.text(9)?.to_owned(),
        })
    }

    fn account(&self) -> &str {
        &self.account
    }
}

fn account(id: &str) -> Result<String, String> {
    if id.is_empty() { Err("the account_id is empty".to_owned()) } else { Ok(id.to_owned()) }
}

/// A day, written as 1993-12-31 and in no other way.
pub(crate) fn parse_day(text: &str) -> Result<Date, String> {
    let shape = text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(n, b)| if matches!(n, 4 | 7) { b == b'-' } else { b.is_ascii_digit() });
    let day = shape.then(|| Date::from_str(text).ok()).flatten();
    day.ok_or_else(|| format!("`{text}` is not a day of the calendar; write it like 1993-12-31"))
}

/// The fields of one row, in the order of [`FromRow::COLUMNS`].
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    line: &'a Line,
    /// Where each column is in the file.
    places: &'a [usize],
    columns: &'static [&'static str],
}

impl<'a> Fields<'a> {
    fn text(&self, column: usize) -> Result<&'a str, String> {
        let name = self.columns[column];
        let bytes = self.line.field(self.places[column]);
        if bytes.len() > FIELD_BYTES {
            return Err(format!("the {name} is {} bytes long; a field may have {FIELD_BYTES}", bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let at = e.valid_up_to() + 1;
            format!("the {name} is not UTF-8 from its byte {at} on; save the file as UTF-8")
        })?;
        match text.chars().find(|c| c.is_control()) {
            Some(bad) => {
                Err(format!("the {name} holds the control character U+{:04X}; take it out", u32::from(bad)))
            }
            None => Ok(text),
        }
    }

    fn parsed<V: FromStr<Err: fmt::Display>>(&self, column: usize) -> Result<V, String> {
        let text = self.text(column)?;
        text.parse().map_err(|e| format!("the {} is `{text}`: {e}", self.columns[column]))
    }

    fn day(&self, column: usize) -> Result<Date, String> {
        parse_day(self.text(column)?).map_err(|e| format!("the {}: {e}", self.columns[column]))
    }
}

/// A row with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row<T> {
    /// The line, counted from 1 as editors do.
    pub(crate) line: u64,
    /// The row, or why it cannot be read.
    pub(crate) content: Result<T, String>,
}

/// A CSV file whose first line has been checked.
#[derive(Debug)]
pub(crate) struct Source<T> {
    path: PathBuf,
    lines: Lines,
    places: Vec<usize>,
    width: usize,
    bytes: u64,
    rows: PhantomData<T>,
}

impl<T: FromRow> Source<T> {
    /// Opens a file and looks for its columns.
    pub(crate) fn open(path: &Path) -> Result<Self, BadFile> {
        let shown = path.display().to_string();
        let unreadable = |cause| BadFile::Unreadable { what: T::WHAT, path: shown.clone(), cause };
        let file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        let mut lines = Lines::of(file);
        let columns = T::COLUMNS.join(", ");
        if !lines.next().map_err(unreadable)? {
            return Err(BadFile::Empty { what: T::WHAT, path: shown, columns });
        }
        let places = lines.line.split(&mut lines.splitter).and_then(|()| places(&lines.line, T::COLUMNS));
        let line = lines.number;
        let places = places.map_err(|problem| BadFile::Header {
            what: T::WHAT,
            path: shown,
            line,
            columns,
            problem,
        })?;
        let width = lines.line.fields();
        Ok(Self { path: path.to_owned(), lines, places, width, bytes, rows: PhantomData })
    }

    /// The file as the user named it.
    pub(crate) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// What the file is called, without its directories.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file's length in bytes; 0 where it has none, as in a pipe.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes have been read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.lines.bytes_read
    }

    /// The next row; `None` at the end of the file.
    ///
    /// An error is one of the disk: there is no next row to go on with.
    pub(crate) fn next(&mut self) -> Result<Option<Row<T>>, BadFile> {
        let path = || self.path.display().to_string();
        let more =
            self.lines.next().map_err(|cause| BadFile::Unreadable { what: T::WHAT, path: path(), cause })?;
        Ok(more.then(|| Row { line: self.lines.number, content: self.content() }))
    }

    fn content(&mut self) -> Result<T, String> {
        let line = &mut self.lines.line;
        line.split(&mut self.lines.splitter)?;
        if line.fields() != self.width {
            let (has, must) = (line.fields(), self.width);
            return Err(format!("the row has {has} fields, and the file's first line names {must} columns"));
        }
        T::from_row(&Fields { line, places: &self.places, columns: T::COLUMNS })
    }
}

/// The lines of a file that are not empty.
///
/// A row is a line here: a quotation mark that is not closed then spoils its own row, not the rest of the file.
#[derive(Debug)]
struct Lines {
    reader: BufReader<File>,
    splitter: csv_core::Reader,
    line: Line,
    number: u64,
    bytes_read: u64,
}

impl Lines {
    fn of(file: File) -> Self {
        Self {
            reader: BufReader::with_capacity(64 * 1024, file),
            splitter: csv_core::Reader::new(),
            line: Line::default(),
            number: 0,
            bytes_read: 0,
        }
    }

    /// Reads the next line; false at the end of the file.
    fn next(&mut self) -> io::Result<bool> {
        loop {
            let text = &mut self.line.text;
            text.clear();
            let mut read = (&mut self.reader).take(LINE_BYTES).read_until(b'\n', text)?;
            self.line.too_long = text.len() as u64 == LINE_BYTES && !text.ends_with(b"\n");
            if self.line.too_long {
                read += self.reader.skip_until(b'\n')?;
            }
            if read == 0 {
                return Ok(false);
            }
            if self.number == 0 && text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len());
            }
            self.number += 1;
            self.bytes_read += read as u64;
            let end = text
                .strip_suffix(b"\n")
                .map_or(&text[..], |text| text.strip_suffix(b"\r").unwrap_or(text))
                .len();
            text.truncate(end);
            if !text.is_empty() {
                return Ok(true);
            }
        }
    }
}

/// One line and its fields.
#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    too_long: bool,
    /// The fields' bytes, one after the other, unquoted.
    unquoted: Vec<u8>,
    /// Where each field ends in `unquoted`.
    ends: Vec<usize>,
}

impl Line {
    /// Finds the fields.
    fn split(&mut self, splitter: &mut csv_core::Reader) -> Result<(), String> {
        if self.too_long {
            return Err(format!("the line is longer than {LINE_BYTES} bytes; is this a CSV file?"));
        }
        self.text.push(b'\n');
        // A field takes at least a byte of the line, and unquoting only makes it shorter.
        self.unquoted.resize(self.text.len(), 0);
        self.ends.resize(self.text.len() + 1, 0);
        splitter.reset();
        let (result, _, _, fields) = splitter.read_record(&self.text, &mut self.unquoted, &mut self.ends);
        self.ends.truncate(fields);
        match result {
            ReadRecordResult::Record => Ok(()),
            _ => Err("a quotation mark is not closed".to_owned()),
        }
    }

    fn fields(&self) -> usize {
        self.ends.len()
    }

    fn field(&self, n: usize) -> &[u8] {
        let begin = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.unquoted[begin..self.ends[n]]
    }
}

/// Where each of `columns` is in the file's first line.
fn places(header: &Line, columns: &[&str]) -> Result<Vec<usize>, String> {
    let names: Vec<_> = (0..header.fields()).map(|n| String::from_utf8_lossy(header.field(n))).collect();
    for (n, name) in names.iter().enumerate() {
        if names[..n].contains(name) {
            return Err(format!("the column `{}` stands there twice", name.escape_debug()));
        }
        if !columns.contains(&&**name) {
            let name: String = name.chars().take(40).flat_map(char::escape_debug).collect();
            return Err(format!("the column `{name}` is unknown, and importing without it would lose it"));
        }
    }
    let place = |column: &&str| {
        names
            .iter()
            .position(|name| name == column)
            .ok_or_else(|| format!("the column `{column}` is missing"))
    };
    columns.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HEADER: &str = "transaction_id,account_id,date,direction,operation,purpose,amount,balance_after,counterparty_bank,counterparty_account\n";
    const GOOD: &str = "7,17,1993-01-05,credit,cash deposit,,900.00,900.00,,\n";

    fn rows(text: impl AsRef<[u8]>) -> Vec<Row<TransactionRow>> {
        let mut source = open(text).unwrap();
        std::iter::from_fn(|| source.next().unwrap()).collect()
    }

    fn open(text: impl AsRef<[u8]>) -> Result<Source<TransactionRow>, BadFile> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_ref()).unwrap();
        Source::open(file.path())
    }

    fn reason(row: impl AsRef<[u8]>) -> String {
        let rows = rows([HEADER.as_bytes(), row.as_ref(), b"\n"].concat());
        assert_eq!(rows[0].line, 2);
        rows[0].content.clone().unwrap_err()
    }

    #[test]
    fn a_row_is_read_whole() {
        let row = "8,19,1993-02-28,debit,transfer out,household,3.5,-1,AB,20747721\n";
        let rows = rows(format!("{HEADER}{row}"));
        let read = rows[0].content.clone().unwrap();
        assert_eq!(
            (&*read.id, &*read.account, &*read.operation, &*read.purpose),
            ("8", "19", "transfer out", "household")
        );
        assert_eq!(
            (read.amount.to_string(), read.balance_after.to_string()),
            ("3.50".into(), "-1.00".into())
        );
        assert_eq!((read.direction, read.date.to_string()), (Direction::Debit, "1993-02-28".into()));
        assert_eq!((&*read.counterparty_bank, &*read.counterparty_account), ("AB", "20747721"));
    }

    #[test]
    fn a_spoilt_row_spoils_no_other() {
        let long = "x".repeat(40_000);
        for spoilt in ["\"", "\"7,17", &long, "\0\0\0", "\r"] {
            let rows = rows(format!("{HEADER}{spoilt}\n{GOOD}"));
            assert!(rows.last().unwrap().content.is_ok() && rows.len() <= 2, "{rows:?}");
        }
        let quoted =
            rows(format!("{HEADER}{}", GOOD.replace("cash deposit", "\"cash, or \"\"like\"\" it\"")));
        assert_eq!(quoted[0].content.clone().unwrap().operation, "cash, or \"like\" it");
    }

    #[test]
    fn columns_may_stand_in_any_order() {
        let mut source: Source<AccountRow> = {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(
                b"\xEF\xBB\xBFopened_on,account_id,statement_frequency,district_id\n1993-01-01,5,monthly,9\n",
            )
            .unwrap();
            Source::open(file.path()).unwrap()
        };
        let row = source.next().unwrap().unwrap().content.unwrap();
        assert_eq!((&*row.account, &*row.district, &*row.statement_frequency), ("5", "9", "monthly"));
    }

    #[test]
    fn lines_are_counted_as_editors_do() {
        for end in ["\n", "\r\n"] {
            let text = format!("{HEADER}{GOOD}\n\nx\n{GOOD}y").replace('\n', end);
            let lines: Vec<_> = rows(&text).iter().map(|row| (row.line, row.content.is_ok())).collect();
            assert_eq!(lines, [(2, true), (5, false), (6, true), (7, false)], "{end:?}");
        }
    }

    #[test]
    fn a_bad_row_is_told_with_the_reason() {
        let cases: &[(&[u8], &str)] = &[
            (
                b"7,17,1993-01-05,credit,cash deposit,,900.00,900.00,",
                "9 fields, and the file's first line names 10",
            ),
            (b"7,17,1993-01-05,credit,cash deposit,,900.00,900.00,,,", "11 fields"),
            (b",17,1993-01-05,credit,cash deposit,,900.00,900.00,,", "transaction_id is empty"),
            (b"7,,1993-01-05,credit,cash deposit,,900.00,900.00,,", "account_id is empty"),
            (b"7,17,1993-02-29,credit,cash deposit,,900.00,900.00,,", "`1993-02-29` is not a day"),
            (b"7,17,05.01.1993,credit,cash deposit,,900.00,900.00,,", "write it like 1993-12-31"),
            (b"7,17,1993-01-05,Credit,cash deposit,,900.00,900.00,,", "`Credit` is neither"),
            (b"7,17,1993-01-05,credit,cash deposit,,9oo,900.00,,", "the amount is `9oo`"),
            (b"7,17,1993-01-05,credit,cash deposit,,,900.00,,", "the amount is ``"),
            (b"7,17,1993-01-05,credit,cash deposit,,900.001,900.00,,", "more than two decimals"),
            (b"7,17,1993-01-05,credit,cash deposit,,900.00,1e3,,", "the balance_after is `1e3`"),
            (b"7,17,1993-01-05,debit,cash deposit,,-900.00,900.00,,", "is negative"),
            (
                b"7,1\x007,1993-01-05,credit,cash deposit,,900.00,900.00,,",
                "account_id holds the control character U+0000",
            ),
            (
                b"7,17,1993-01-05,credit,v\xfdb\xecr,,900.00,900.00,,",
                "operation is not UTF-8 from its byte 2",
            ),
            (b"7,17,1993-01-05,credit,\"cash,,900.00,900.00,,", "a quotation mark is not closed"),
        ];
        for (row, expected) in cases {
            let told = reason(row);
            assert!(told.contains(expected), "{told:?} should contain {expected:?}");
        }
        assert!(
            reason(format!("7,17,1993-01-05,credit,{}", "x".repeat(20_000)))
                .contains("longer than 16384 bytes")
        );
        assert!(
            reason(format!("7,{},1993-01-05,credit,,,1,1,,", "x".repeat(201))).contains("201 bytes long")
        );
    }

    #[test]
    fn a_bad_first_line_is_told_with_what_it_must_be() {
        let told = |text: &str| open(text).unwrap_err().to_string();
        assert!(
            told("").contains("is empty; its first line must name the columns transaction_id, account_id")
        );
        assert!(told("account_id,district_id\n").contains("line 1: the column `district_id` is unknown"));
        assert!(told(&HEADER.replace(",amount", "")).contains("the column `amount` is missing"));
        assert!(told(&HEADER.replace("amount", "date")).contains("the column `date` stands there twice"));
        assert!(told(&HEADER.replace(',', ";")).contains("unknown"));
        let missing = Source::<AccountRow>::open(Path::new("no/such.csv")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read the accounts file no/such.csv: "), "{missing}");
    }
}
