use super::*;

/// Reads a table over defaults that are no one else's.
fn over(table: &str) -> Result<Workers, String> {
    let default =
        Workers { start: 2, max: 8, spare_min: 3, spare_max: 5, jobs_max: 70, concurrency: 900 };
    let mut json = serde_json::Deserializer::from_str(table);
    Workers::over(default, &mut json).map_err(|error| error.to_string())
}

#[test]
fn what_a_table_does_not_name_is_as_the_farm_has_it() {
    let told = over("{}").unwrap();
    assert_eq!((told.start, told.max, told.spare_min), (2, 8, 3));
    assert_eq!((told.spare_max, told.jobs_max, told.concurrency), (5, 70, 900));
    assert_eq!(over("{\"max\": 4}"), Ok(Workers { max: 4, ..told.clone() }));
    assert_eq!(over("{\"concurrency\": 1}"), Ok(Workers { concurrency: 1, ..told }));
}

#[test]
fn what_is_no_table_of_workers_is_refused() {
    for (table, expected) in [("4", "expected a table, as in { start = 1"), ("{\"mux\": 4}", "mux")]
    {
        let refused = over(table).unwrap_err();
        assert!(refused.contains(expected), "{table}: {refused}");
    }
}
