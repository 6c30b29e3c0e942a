//! Pages of a record that is too long for one segment of its index: what they list is what a look at every record finds.

use std::iter;
use std::time::Duration;

use anyhow::ensure;
use chrono::{DateTime, Datelike, Months, NaiveTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tombolo_management::audit::{Chain, ChainHead, Outcome, Record, Verb, seal};
use tombolo_tests::eventually;

use crate::support::{ACME, Api, Management, append_audit, two_teams};

const DEADLINE: Duration = Duration::from_secs(60);
/// Of months to come: each is a segment, more of them than are read at a time.
const FEW: u32 = 40;
const MONTHS_OF_FEW: u32 = 12;
/// A whole small segment, and another that ends with the month.
const OF_ONE_MONTH: u32 = 1100;
/// A whole one, and some that are in none.
const OF_ANOTHER: u32 = 1300;
/// One record in so many has a denial beside it.
const DENIED: u32 = 50;

/// Few people at many places.
fn record(number: u32, time: DateTime<Utc>, outcome: Outcome) -> Record {
    let verbs = [Verb::Create, Verb::Update, Verb::Update, Verb::Delete];
    let (tenant, leaf) = (["pay", "media"][number as usize % 2], number % 7);
    let workspace = format!("{ACME}/tenants/{tenant}/workspaces/w{leaf}");
    let name = match number % 3 {
        0 => workspace,
        _ => format!("{workspace}/trafficgroups/g{}", number % 2),
    };
    Record {
        time,
        request_id: format!("request{number}"),
        after: Some(json!({"spec": {"description": format!("edition {}", number % 50)}})),
        ..Record::new(
            format!("{ACME}/users/u{}", number % 5),
            verbs[number as usize % verbs.len()],
            name,
            outcome,
        )
    }
}

fn head(row: &sqlx::postgres::PgRow) -> ChainHead {
    ChainHead {
        sequence: row.get::<i64, _>(0).cast_unsigned(),
        hash: row.get::<Vec<u8>, _>(1).try_into().unwrap(),
        time: row.get(2),
    }
}

/// As management would have in two months to come, whose partitions are there.
async fn fill(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let row = sqlx::query("SELECT audit_sequence, audit_hash, audit_time FROM organizations FOR UPDATE")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    let mut writes = head(&row);
    let mut denials = ChainHead::default();
    let this_month = Utc::now()
        .date_naive()
        .with_day(1)
        .unwrap()
        .and_time(NaiveTime::MIN)
        .and_utc();
    let sizes = iter::repeat_n(FEW, MONTHS_OF_FEW as usize).chain([OF_ONE_MONTH, OF_ANOTHER]);
    let times = (1..).zip(sizes).flat_map(|(months, size)| {
        let begins = this_month + Months::new(months);
        (0..size).map(move |second| begins + TimeDelta::seconds(second.into()))
    });
    let last = this_month + Months::new(MONTHS_OF_FEW + 2);
    sqlx::query("SELECT audit_add_partitions(now(), $1)")
        .bind(last)
        .execute(&mut *tx)
        .await
        .unwrap();
    for (number, time) in (0..).zip(times) {
        let (sealed, next) = seal(Chain::Writes, writes, record(number, time, Outcome::Done));
        writes = next;
        append_audit(&mut tx, sealed).await;
        if number % DENIED == 0 {
            let (sealed, next) = seal(Chain::Denials, denials, record(number, time, Outcome::Denied));
            denials = next;
            append_audit(&mut tx, sealed).await;
        }
    }
    sqlx::query("UPDATE organizations SET audit_sequence = $1, audit_hash = $2, audit_time = $3")
        .bind(writes.sequence.cast_signed())
        .bind(writes.hash.to_vec())
        .bind(writes.time)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query("INSERT INTO denial_heads (organization, sequence, hash, time) VALUES ('acme', $1, $2, $3)")
        .bind(denials.sequence.cast_signed())
        .bind(denials.hash.to_vec())
        .bind(denials.time)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// Every record, the newest first, without the index.
async fn all(url: &str) -> Vec<Value> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query("SELECT record FROM audit ORDER BY time DESC, chain DESC, sequence DESC")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    rows.iter()
        .map(|row| serde_json::from_slice(row.get(0)).unwrap())
        .collect()
}

async fn paged(api: &Api, query: &str, page_size: u32) -> Vec<Value> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = api
            .get(&format!("audit?pageSize={page_size}{query}{token}"))
            .await
            .json();
        for item in page["items"].as_array().unwrap() {
            let mut item = item.as_object().unwrap().clone();
            item.retain(|field, _| !["chain", "sequence", "hash"].contains(&field.as_str()));
            found.push(Value::Object(item));
        }
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => return found,
        }
    }
}

type Holds = Box<dyn Fn(&Value) -> bool>;

fn field(name: &'static str, value: &str) -> (String, Holds) {
    let wanted = value.to_owned();
    let holds = move |record: &Value| record[name] == wanted;
    (format!("&{name}={value}"), Box::new(holds))
}

fn below(node: String) -> (String, Holds) {
    let parameter = format!("&name={node}");
    let within = format!("{node}/");
    let holds = move |record: &Value| {
        let name = record["name"].as_str().unwrap();
        name == node || name.starts_with(&within)
    };
    (parameter, Box::new(holds))
}

#[tokio::test]
async fn segments_give_what_every_record_looked_at_gives() {
    let management = Management::start().await;
    two_teams(&management).await;
    let pay = format!("{ACME}/tenants/pay");
    let reader = management.user("reader", &[(&pay, "auditor")]).await;
    let url = management.url().to_owned();
    fill(&url).await;
    // What is new comes behind what is in the months to come, and is in no segment.
    let denied = reader.get(&format!("{ACME}/tenants/media")).await;
    assert_eq!(denied.status, 404, "{}", denied.text);
    management
        .admin
        .create(json!({"name": format!("{ACME}/tenants/new")}))
        .await;
    let segments = |chain: &str| {
        format!(
            "SELECT coalesce(string_agg(tier || ':' || length, ' ' ORDER BY tier DESC, time), '') FROM audit_postings \
             WHERE bucket = -1 AND chain = '{chain}'"
        )
    };
    let denied = (FEW * MONTHS_OF_FEW + OF_ONE_MONTH + OF_ANOTHER).div_ceil(DENIED);
    let all = eventually(DEADLINE, || async {
        let found = management.text(&segments("writes")).await;
        let of_writes: Vec<&str> = found.split(' ').collect();
        // Of before, of each month of few, which are huge ones since a large one follows; of the one month, whose two are
        // merged; and of the other.
        let are_merged = of_writes.strip_suffix(&["1:1100", "0:1024"]).is_some_and(|huge| {
            huge.len() == 1 + MONTHS_OF_FEW as usize && huge.iter().all(|segment| segment.starts_with("2:"))
        });
        ensure!(are_merged, "the segments are of {found} records");
        let of_denials = management.text(&segments("denials")).await;
        ensure!(
            of_denials.contains(' '),
            "the segments are of {of_denials} denials"
        );
        let all = all(&url).await;
        let denials = all.iter().filter(|record| record["outcome"] == "denied").count();
        ensure!(denials == denied as usize + 1, "{denials} denials");
        Ok(all)
    })
    .await;

    let text = |record: &Value, field: &str| record[field].as_str().unwrap().to_owned();
    let in_one_month = text(&all[all.len() - 700], "time");
    let later = text(&all[900], "time");
    let (since, until) = (in_one_month.clone(), later.clone());
    let filters: Vec<(String, Holds)> = vec![
        field("actor", &format!("{ACME}/users/u3")),
        field("actor", "system"),
        field("kind", "Workspace"),
        field("verb", "delete"),
        field("outcome", "denied"),
        field("outcome", "done"),
        below(pay.clone()),
        below(format!("{pay}/workspaces/w4")),
        below(format!("{ACME}/tenants/media/workspaces/w1/trafficgroups/g1")),
        (
            format!("&since={in_one_month}"),
            Box::new(move |record| text(record, "time") >= since),
        ),
        (
            format!("&until={later}"),
            Box::new(move |record| text(record, "time") < until),
        ),
        (
            "&text=Edition%2017".to_owned(),
            Box::new(|record| record["after"]["spec"]["description"] == "edition 17"),
        ),
        (
            "&text=request1034".to_owned(),
            Box::new(|record| record["requestId"] == "request1034"),
        ),
    ];
    let parameter = |filter: &str| filter.split('=').next().map(str::to_owned);
    for (number, (one, holds_one)) in filters.iter().enumerate() {
        for (other, holds_other) in &filters[number..] {
            let other = match (one == other, parameter(one) == parameter(other)) {
                (true, _) => "",
                (false, true) => continue,
                (false, false) => other,
            };
            let holds = |record: &&Value| holds_one(record) && holds_other(record);
            let expected: Vec<&Value> = all.iter().filter(holds).collect();
            let found = paged(&management.admin, &format!("{one}{other}"), 499).await;
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{one}{other}");
            let of_pay = below(pay.clone()).1;
            let expected: Vec<&Value> = expected.into_iter().filter(|record| of_pay(record)).collect();
            let found = paged(&reader, &format!("{one}{other}"), 499).await;
            assert_eq!(
                found.iter().collect::<Vec<_>>(),
                expected,
                "for the reader: {one}{other}"
            );
        }
    }
    let found = paged(&management.admin, "", 63).await;
    assert_eq!(found, all);
    management.stop().await;
}
