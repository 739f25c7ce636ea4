//! The context on its way in where no API takes it: header lines of GenerativeAgent's INVITE, within a budget.

use super::context::{encoded, is_name, octets};
use super::intake::{CUSTOMER, Intake};
use super::settings::IntakeSettings;

/// What GenerativeAgent is told in `room` octets. The task, and then each variable, goes whole or not at all; what is
/// left out is counted in the intake, as what it leaves out itself.
pub(super) fn headers(intake: &mut Intake, room: usize) -> Vec<(String, String)> {
    // The names that GenerativeAgent reads, whichever our callers write.
    let names = IntakeSettings::default();
    // Whatever the room: without its name nobody could come back to the conversation.
    let conversation = encoded(&intake.conversation.0);
    let mut input =
        Input { lines: Vec::new(), room: room.saturating_sub(octets(&names.conversation_header, &conversation)) };
    input.lines.push((names.conversation_header, conversation));
    let told = intake.task.as_ref().is_none_or(|task| input.add(names.task_header, task));
    let before = intake.variables.len();
    intake.variables.retain(|(name, value)| match name.as_str() {
        CUSTOMER => input.add(names.customer_header.clone(), value),
        name => is_name(name) && input.add(format!("{}{name}", names.variable_prefix), value),
    });
    intake.left_out += (before - intake.variables.len()) as u32 + u32::from(!told);
    input.lines
}

struct Input {
    lines: Vec<(String, String)>,
    room: usize,
}

impl Input {
    /// Puts a line in where there is room for all of it and its name is new; tells whether it is in.
    fn add(&mut self, name: String, value: &str) -> bool {
        let value = encoded(value);
        let octets = octets(&name, &value);
        let fits = octets <= self.room && !self.lines.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name));
        if fits {
            self.room -= octets;
            self.lines.push((name, value));
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leg::Invitation;
    use proptest::prelude::*;

    fn intake(conversation: &str, task: Option<&str>, variables: &[(String, String)]) -> Intake {
        let mut intake = Intake::read(&Invitation::default(), &IntakeSettings::default(), &mut ());
        intake.conversation.0 = conversation.to_owned();
        intake.task = task.map(str::to_owned);
        intake.variables = variables.to_vec();
        intake
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole_and_counted() {
        let variables = [("long", "x".repeat(99)), ("customerId", "c 1".to_owned()), ("a b", "1".to_owned())];
        let twice = [("plan", "gold".to_owned()), ("Plan", "again".to_owned())];
        let variables: Vec<_> =
            variables.into_iter().chain(twice).map(|(name, value)| (name.to_owned(), value)).collect();
        let mut intake = intake("conv é", Some("Billing"), &variables);
        let lines = headers(&mut intake, 130);
        let written: Vec<_> = lines.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let wanted = [
            "X-GA-extConversationId: conv%20%C3%A9",
            "X-GA-taskName: Billing",
            "X-GA-customerId: c%201",
            "X-GA-iv-plan: gold",
        ];
        assert_eq!(written, wanted);
        assert_eq!((intake.variables.len(), intake.left_out), (2, 3));
        intake.task = Some("t".repeat(90));
        assert_eq!(headers(&mut intake, 130).len(), 3, "the conversation and two variables");
        assert_eq!((intake.task.map(|task| task.len()), intake.left_out), (Some(90), 4), "what was asked for");
    }

    proptest! {
        #[test]
        fn no_octet_of_a_name_or_value_can_start_a_line_or_exceed_the_room(
            conversation in ".{1,40}", task in ".*", variables in prop::collection::vec((".*", ".*"), 0..12), room in 0usize..600,
        ) {
            let count = variables.len();
            let mut intake = intake(&conversation, Some(&task), &variables);
            let lines = headers(&mut intake, room);
            prop_assert!(lines.iter().skip(1).map(|(name, value)| octets(name, value)).sum::<usize>() <= room);
            prop_assert_eq!(lines.len() + intake.left_out as usize, count + 2);
            for (at, (name, value)) in lines.iter().enumerate() {
                prop_assert!(name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
                prop_assert!(value.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(!lines[..at].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
            }
        }
    }
}
