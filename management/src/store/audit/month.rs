//! Months of UTC, which are the partitions of the record.

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};

/// Its first day.
pub(super) fn month_of(time: DateTime<Utc>) -> NaiveDate {
    first_day(time.year(), time.month())
}

pub(super) fn month_begin(month: NaiveDate) -> DateTime<Utc> {
    month.and_time(NaiveTime::MIN).and_utc()
}

/// The beginning of the next.
pub(super) fn month_end(month: NaiveDate) -> DateTime<Utc> {
    month_begin(match month.month() {
        12 => first_day(month.year() + 1, 1),
        earlier => first_day(month.year(), earlier + 1),
    })
}

fn first_day(year: i32, month: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, 1).unwrap_or(NaiveDate::MIN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_over_the_new_year() {
        let december = month_of("2025-12-31T23:59:59Z".parse().unwrap());
        assert_eq!(december.to_string(), "2025-12-01");
        assert_eq!(month_end(december).to_rfc3339(), "2026-01-01T00:00:00+00:00");
        assert_eq!(month_of(month_end(december)).to_string(), "2026-01-01");
    }
}
