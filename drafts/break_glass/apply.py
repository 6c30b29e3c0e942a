import shutil
def sub(f,*prs):
    s=open(f).read()
    for a,b in prs:
        assert a in s,(f,a)
        s=s.replace(a,b,1)
    open(f,'w').write(s)
M='management/src/'
shutil.copy('/tmp/bg/break_glass.rs',M+'break_glass.rs')
sub(M+'lib.rs',('mod approval;\n','mod approval;\nmod break_glass;\n') if False else ('pub mod audit;\n','pub mod audit;\nmod break_glass;\n'),
 ('pub use outbound::OutboundError;','pub use break_glass::BreakGlassError;\npub use outbound::OutboundError;'))
sub(M+'iam.rs',
('''    ServiceAccount {
        name: Fqn,
        uid: Uuid,
    },
}
''','''    ServiceAccount {
        name: Fqn,
        uid: Uuid,
    },
    /// Whoever has the sealed credential.
    BreakGlass {
        organization: Fqn,
        uid: Uuid,
    },
}
'''),
('''    /// It is management itself.
    System,
    /// Everybody keeps''','''    /// It is management itself.
    System,
    BreakGlass,
    /// Everybody keeps'''),
('''    /// Of that name there is another one now, or none.
    Gone { principal: Fqn },
''','''    /// Of that name there is another one now, or none.
    Gone { principal: Fqn },
    /// The sealed credential is for that organization.
    Elsewhere { organization: Fqn },
'''),
('''        Principal::System => return Some(Because::System),
        Principal::User { name, uid } |''','''        Principal::System => return Some(Because::System),
        Principal::BreakGlass { organization, .. } => {
            return node.is_within(organization).then_some(Because::BreakGlass);
        }
        Principal::User { name, uid } |'''),
('''    let (Principal::User { name, uid } | Principal::ServiceAccount { name, uid }) = asker.principal else {
        unreachable!("invariant: management itself lacks nothing");
    };
''','''    let (name, uid) = match asker.principal {
        Principal::User { name, uid } | Principal::ServiceAccount { name, uid } => (name, uid),
        Principal::BreakGlass { organization, .. } => {
            return Lack::Elsewhere {
                organization: organization.clone(),
            };
        }
        Principal::System => unreachable!("invariant: management itself lacks nothing"),
    };
'''),
('''    /// `None` for management itself.
    pub fn name(&self) -> Option<&Fqn> {
        match self {
            Principal::System => None,''','''    /// `None` for who is not in the tree.
    pub fn name(&self) -> Option<&Fqn> {
        match self {
            Principal::System | Principal::BreakGlass { .. } => None,'''),
('''    /// `None` for management itself.
    pub fn uid(&self) -> Option<Uuid> {
        match self {
            Principal::System => None,''','''    /// `None` for who is not in the tree.
    pub fn uid(&self) -> Option<Uuid> {
        match self {
            Principal::System | Principal::BreakGlass { .. } => None,'''),
('''        match self.name() {
            None => f.write_str("system"),
            Some(name) => fmt::Display::fmt(name, f),
        }''','''        match self {
            Principal::System => f.write_str("system"),
            Principal::BreakGlass { .. } => f.write_str("break-glass"),
            Principal::User { name, .. } | Principal::ServiceAccount { name, .. } => fmt::Display::fmt(name, f),
        }'''),
('''            Because::System => f.write_str("it is management itself"),''','''            Because::System => f.write_str("it is management itself"),
            Because::BreakGlass => f.write_str("it is the break-glass credential"),'''),
('''            Lack::Gone { principal } => return write!(f, "{principal} does not exist any more"),''','''            Lack::Gone { principal } => return write!(f, "{principal} does not exist any more"),
            Lack::Elsewhere { organization } => {
                return write!(f, "the break-glass credential is for {organization} alone");
            }'''),
)
sub(M+'audit.rs',
('    RejectPlan,\n    Transfer,\n','    RejectPlan,\n    Transfer,\n    /// The break-glass credential was made.\n    SealBreakGlass,\n    /// A request was made with the break-glass credential, whatever became of it.\n    BreakGlass,\n'),
('            Verb::Transfer => "transfer",\n','            Verb::Transfer => "transfer",\n            Verb::SealBreakGlass => "seal-break-glass",\n            Verb::BreakGlass => "break-glass",\n'),
)
sub(M+'store.rs',
('''        Principal::User { uid, .. } | Principal::ServiceAccount { uid, .. } => {''','''        Principal::User { uid, .. }
        | Principal::ServiceAccount { uid, .. }
        | Principal::BreakGlass { uid, .. } => {'''))
sub(M+'store/role.rs',('Principal::User { .. } | Principal::ServiceAccount { .. } => APP','Principal::User { .. } | Principal::ServiceAccount { .. } | Principal::BreakGlass { .. } => APP'))
sub(M+'token.rs',
('''async fn record(
    store: &Store,
    tx: &mut Tx,
    mut head: Head,
    caller: &Caller,
    verb: Verb,
    user: &Fqn,
    id: Uuid,
) -> Result<(), StoreError> {
    let record = Record {
        reason: format!("token {id}"),
        ..caller.record(verb, user.as_str())
    };
    let (sealed, end) = seal(Chain::Writes, head.audit, record);
    head.audit = end;
    store.insert_audit(tx, &[sealed]).await?;
    store.set_head(tx, &head).await
}''','''async fn record(
    store: &Store,
    tx: &mut Tx,
    head: Head,
    caller: &Caller,
    verb: Verb,
    user: &Fqn,
    id: Uuid,
) -> Result<(), StoreError> {
    let record = Record {
        reason: format!("token {id}"),
        ..caller.record(verb, user.as_str())
    };
    store.append_write(tx, head, record).await
}'''),
('use crate::audit::{self, Chain, Record, Verb, seal};','use crate::audit::{self, Record, Verb};'),
)
s=open(M+'api/approvals.rs').read()
a='''    let (sealed, end) = seal(Chain::Writes, head.audit, record);
    head.audit = end;
    app.store.insert_audit(tx, &[sealed]).await?;
    app.store.set_head(tx, &head).await
'''
assert a in s
s=s.replace(a,'    app.store.append_write(tx, head, record).await\n').replace('    mut head: Head,','    head: Head,').replace('use crate::audit::{self, Chain, Record, Verb, seal};','use crate::audit::{self, Record, Verb};')
open(M+'api/approvals.rs','w').write(s)
s=open(M+'store/audit.rs').read()
i=s.index('impl Store {')+len('impl Store {\n')
s=s[:i]+'''    /// One record of something that changes no resource, behind the head that the transaction holds.
    pub(crate) async fn append_write(&self, tx: &mut Tx, head: Head, record: Record) -> Result<(), StoreError> {
        let (sealed, audit) = seal(Chain::Writes, head.audit, record);
        self.insert_audit(tx, &[sealed]).await?;
        self.set_head(tx, &Head { audit, ..head }).await
    }

'''+s[i:]
s=s.replace('use crate::audit::{Chain, ChainHead, Found, Index, Mark, NODE_KEYS, Sealed, key};','use super::organization::Head;\nuse crate::audit::{Chain, ChainHead, Found, Index, Mark, NODE_KEYS, Record, Sealed, key, seal};')
open(M+'store/audit.rs','w').write(s)
sub(M+'writer.rs',
('''    let caller = Caller {
        principal: Principal::System,
        source: String::new(),
        request_id: String::new(),
        hand: Hand::default(),
        teams: Vec::new(),
        time: audit::now(),
        credential: None,
    };
    let prepared''','''    let caller = Caller::system();
    let prepared'''),
('''impl Caller {
    pub(crate) fn asker''','''impl Caller {
    /// Management itself, now.
    pub(crate) fn system() -> Caller {
        Caller {
            principal: Principal::System,
            source: String::new(),
            request_id: String::new(),
            hand: Hand::default(),
            teams: Vec::new(),
            time: audit::now(),
            credential: None,
        }
    }

    pub(crate) fn asker'''),
)
sub(M+'snapshot.rs',
('''        Realms::of(&self.bindings, &self.owned)
''','''        let mut realms = Realms::of(&self.bindings, &self.owned);
        if let Some(organization) = self.organization() {
            realms.open_everything(break_glass::uid(&organization));
        }
        realms
'''),
('''    /// What the second wall must be told when''','''    /// `None` before it exists.
    pub(crate) fn organization(&self) -> Option<Fqn> {
        self.tree.keys().next().map(Fqn::organization)
    }

    /// What the second wall must be told when'''),
('use crate::iam::Bindings;','use crate::break_glass;\nuse crate::iam::Bindings;'),
)
sub(M+'realm.rs',
('''    pub(crate) fn to(&self''','''    /// Also to somebody who is not in the tree.
    pub(crate) fn open_everything(&mut self, principal: Uuid) {
        self.0.insert((principal, EVERYWHERE.to_owned()), Access::Write);
    }

    pub(crate) fn to(&self'''))
s=open(M+'realm.rs').read()
s=s.replace('assert_eq!(all.realms().0, expected, "{role} on {node}");','assert_eq!(realms(&all), expected, "{role} on {node}");').replace('assert_eq!(snapshot(more).realms().0, expected, "{case}");','assert_eq!(realms(&snapshot(more)), expected, "{case}");').replace('assert_eq!(all.realms().0, expected);','assert_eq!(realms(&all), expected);')
s=s.replace('''    #[test]
    fn a_binding_opens''','''    /// Of those in the tree.
    fn realms(snapshot: &Snapshot) -> BTreeMap<(Uuid, String), Access> {
        let mut realms = snapshot.realms().0;
        let sealed = crate::break_glass::uid(&ACME.parse().unwrap());
        assert_eq!(realms.remove(&(sealed, EVERYWHERE.to_owned())), Some(Access::Write));
        realms
    }

    #[test]
    fn a_binding_opens''')
open(M+'realm.rs','w').write(s)
sub(M+'api/caller.rs',
('''        tracing::Span::current().record("principal", principal.to_string());
        Ok(Caller {
            principal,
            teams: bearer.info.teams.get_or_init(|| teams).clone(),
            source: bearer.info.source,
            request_id: bearer.info.id,
            hand: bearer.hand,
            time,
            credential: Some(Credential {
                id: holder.token,
                expires_at: holder.expires_at,
            }),
        })
''','''        tracing::Span::current().record("principal", principal.to_string());
        let caller = Caller {
            principal,
            teams: bearer.info.teams.get_or_init(|| teams).clone(),
            source: bearer.info.source,
            request_id: bearer.info.id,
            hand: bearer.hand,
            time,
            credential: Some(Credential {
                id: holder.token,
                expires_at: holder.expires_at,
            }),
        };
        if let Principal::BreakGlass { .. } = caller.principal {
            let metrics = self.metrics.break_glass();
            break_glass::used(&self.store, metrics, &caller, &bearer.request, &bearer.name).await?;
        }
        Ok(caller)
'''),
('''        let principal = self.bindings.principal(uid)?;
        let teams = self.bindings.teams_of(principal.name()?);
        let teams = teams.iter().map(Fqn::to_string).collect();
        Some((principal, teams))
''','''        let organization = self.organization()?;
        if uid == break_glass::uid(&organization) {
            return Some((break_glass::principal(&organization), Vec::new()));
        }
        let principal = self.bindings.principal(uid)?;
        let teams = self.bindings.teams_of(principal.name()?);
        let teams = teams.iter().map(Fqn::to_string).collect();
        Some((principal, teams))
'''),
('use crate::audit::{self, Verb};','use crate::audit::{self, Verb};\nuse crate::break_glass;'),
('''    /// What a refusal is about.
    verb: Verb,
    name: String,
}''','''    /// What a refusal is about.
    verb: Verb,
    name: String,
    /// `GET /v1/…`, without the query.
    request: String,
}'''),
('''            hand,
            verb,
            name,
        })''','''            hand,
            verb,
            name,
            request: format!("{} {}", parts.method, parts.uri.path()),
        })'''),
)
sub(M+'metrics.rs',
('''    pub(crate) revision: Gauge,
}''','''    break_glass: BreakGlassMetrics,
    pub(crate) revision: Gauge,
}'''),
('''            in_flight: Gauge::default(),
            revision''','''            in_flight: Gauge::default(),
            break_glass: BreakGlassMetrics::default(),
            revision'''),
('''        metrics
    }

    pub(crate) fn registry''','''        metrics.break_glass.register(registry);
        metrics
    }

    pub(crate) fn break_glass(&self) -> &BreakGlassMetrics {
        &self.break_glass
    }

    pub(crate) fn registry'''),
('use tombolo_runtime::admin::Metrics;\n','use tombolo_runtime::admin::Metrics;\n\nuse crate::break_glass::BreakGlassMetrics;\n'),
)
sub(M+'server.rs',
('''    /// Of one principal, per second.
    pub requests_max: NonZeroU32,
}''','''    /// Of one principal, per second.
    pub requests_max: NonZeroU32,
    /// The file of the break-glass credential, made when it is missing; none without a file.
    pub break_glass: Option<PathBuf>,
}'''),
('''    #[error("the system gives no randomness for a token")]''','''    #[error(transparent)]
    BreakGlass(#[from] BreakGlassError),
    #[error("the system gives no randomness for a token")]'''),
('''    let key_file = config.audit.key.clone();''','''    let sealed_until = match &config.break_glass {
        Some(path) => Box::pin(break_glass::seal(&store, &organization, &id.to_string(), path)).await?,
        None => None,
    };
    let key_file = config.audit.key.clone();'''),
('''    keeper.metrics().register(metrics.registry());
''','''    metrics.break_glass().set_expiry(sealed_until);
    keeper.metrics().register(metrics.registry());
'''),
)
