//! The scripted API: every question waits until the script answers it, or until its own limit does.

use std::time::Duration;

use switchback::b2bua::io::{
    ApiFailure, ApiOperation, ApiRequest, CreateTransfer, FailureClass, OutputContext, Transfer, TransferStatus,
};

use crate::engine::{UNIX_MS, failure};
use crate::world::Shared;

pub const NUMBER: &str = "+19995550199";

pub struct Api {
    stage: Shared,
}

/// One question of the core's, unanswered.
pub struct Question {
    pub request: ApiRequest,
    number: u64,
    latency: Option<Duration>,
    stage: Shared,
}

impl Api {
    pub fn new(stage: Shared) -> Self {
        Self { stage }
    }

    pub fn expect_create(&self) -> Question {
        let question = self.expect("a POST");
        assert!(matches!(question.request.operation, ApiOperation::Create(_)), "a POST, not {:?}", question.request);
        question
    }

    pub fn expect_fetch(&self) -> Question {
        let question = self.expect("a GET");
        assert!(matches!(question.request.operation, ApiOperation::Fetch), "a GET, not {:?}", question.request);
        question
    }

    fn expect(&self, what: &str) -> Question {
        let (number, request) = self.stage.borrow_mut().wait(what, |stage| stage.questions.pop_front());
        Question { request, number, latency: None, stage: self.stage.clone() }
    }

    /// Nobody asks anything for so long.
    pub fn expect_nothing_for(&self, time: Duration) {
        let mut stage = self.stage.borrow_mut();
        stage.run_for(time);
        if let Some((_, request)) = stage.questions.pop_front() {
            stage.fail(&format!("ASAPP was asked: {request:?}"));
        }
    }

    /// How many questions have been asked.
    pub fn asked(&self) -> usize {
        self.stage.borrow().engine.asked.len()
    }
}

impl Question {
    /// The answer takes so long.
    #[must_use]
    pub fn after(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    pub fn id(&self) -> String {
        self.request.transfer.0.clone()
    }

    pub fn body(&self) -> &CreateTransfer {
        match &self.request.operation {
            ApiOperation::Create(body) => body,
            ApiOperation::Fetch => panic!("a GET has no body"),
        }
    }

    pub fn answer(self, answer: Result<Transfer, ApiFailure>) {
        let mut stage = self.stage.borrow_mut();
        let latency = self.latency.unwrap_or(stage.latency);
        stage.engine.reply(self.number, latency, answer);
    }

    pub fn answer_number(self, number: &str, life: Duration) {
        self.answer(Ok(active(number, life)));
    }

    pub fn fail(self, class: FailureClass) {
        self.answer(Err(failure(class)));
    }

    /// 429 or 503 with a Retry-After.
    pub fn fail_until(self, class: FailureClass, retry_after: Duration) {
        self.answer(Err(ApiFailure { retry_after: Some(retry_after), ..failure(class) }));
    }

    pub fn answer_status(self, status: TransferStatus) {
        self.answer(Ok(Transfer { status: Some(status), dated: UNIX_MS, ..Transfer::default() }));
    }

    /// COMPLETED with this transferType and these transferVariables.
    pub fn answer_completed(self, kind: &str, variables: &[(&str, &str)]) {
        self.answer(Ok(completed(kind, variables, &[])));
    }
}

pub fn active(number: &str, life: Duration) -> Transfer {
    Transfer {
        status: Some(TransferStatus::Active),
        number: Some(number.to_owned()),
        country: Some("US".to_owned()),
        expires_at: Some(UNIX_MS + life.as_millis() as i64),
        dated: UNIX_MS,
        output: None,
    }
}

pub fn completed(kind: &str, transfer: &[(&str, &str)], reference: &[(&str, &str)]) -> Transfer {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let output = OutputContext {
        transfer_type: Some(kind.to_owned()),
        task: None,
        transfer_variables: pairs(transfer),
        reference_variables: pairs(reference),
    };
    Transfer { status: Some(TransferStatus::Completed), output: Some(output), dated: UNIX_MS, ..Transfer::default() }
}
