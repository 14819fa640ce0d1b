use super::*;

#[test]
fn farms_stand_in_the_plans_order_and_those_that_leave_last() {
    let plan = ["smtp", "error", "smtpserver", "metrics"];
    let mut farms = vec![Farm::new("smtp"), Farm::new("old"), Farm::new("smtpserver")];
    arrange(&mut farms, &plan.map(str::to_owned));
    let found: Vec<_> = farms.iter().map(|farm| (farm.name.as_str(), farm.leaves)).collect();
    assert_eq!(found[..4], plan.map(|name| (name, false)));
    assert_eq!(found[4..], [("old", true)]);
}
