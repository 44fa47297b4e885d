//! Which packets belong to the programme: PAT and PMT (ISO/IEC 13818-1 §2.4.4), read with `mpeg2ts-reader`.

use mpeg2ts_reader::StreamType;
use mpeg2ts_reader::packet::{Packet, Pid};
use mpeg2ts_reader::psi::pat::{PAT_PID, PatSection, ProgramDescriptor};
use mpeg2ts_reader::psi::pmt::PmtSection;
use mpeg2ts_reader::psi::{
    BufferSectionSyntaxParser, CrcCheckWholeSectionSyntaxPayloadParser, CurrentNext, SectionCommonHeader,
    SectionPacketConsumer, SectionSyntaxSectionProcessor, TableSyntaxHeader, WholeSectionSyntaxPayloadParser,
};

const PAT_TABLE_ID: u8 = 0;
const PMT_TABLE_ID: u8 = 2;
const CRC_BYTES: usize = 4;

/// What the PMT says of the programme.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Streams {
    /// Carries the PCR.
    pub(super) clock_pid: Pid,
    /// The stream that decides where the programme can be joined.
    pub(super) lead: Option<Lead>,
}

/// The first video stream, or the first audio stream of a programme without video.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lead {
    pub(super) pid: Pid,
    pub(super) kind: StreamKind,
}

/// In the order in which a stream is preferred as the lead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum StreamKind {
    Video,
    Audio,
    /// AC-3 and Opus audio in Europe, but also subtitles: only its descriptors would tell.
    Private,
}

/// The first programme that the PAT names.
pub(super) struct Programme {
    pat: Sections<PatReader>,
    map: Option<ProgrammeMap>,
    streams: Option<Streams>,
}

struct ProgrammeMap {
    number: u16,
    pid: Pid,
    pmt: Sections<PmtReader>,
}

impl Default for Programme {
    fn default() -> Programme {
        Programme { pat: sections(PatReader), map: None, streams: None }
    }
}

impl Programme {
    pub(super) fn streams(&self) -> Option<Streams> {
        self.streams
    }

    /// Reads the packet when it belongs to the PAT or the PMT.
    pub(super) fn read_tables(&mut self, packet: &Packet<'_>) {
        if packet.transport_error_indicator() {
            return;
        }
        if packet.pid() == PAT_PID {
            let mut found = None;
            self.pat.consume(&mut found, packet);
            if let Some((number, pid)) = found {
                self.follow(number, pid);
            }
        } else if let Some(map) = self.map.as_mut().filter(|map| map.pid == packet.pid()) {
            let mut found = None;
            map.pmt.consume(&mut found, packet);
            self.streams = found.or(self.streams);
        }
    }

    /// For when bytes are missing: what comes next does not continue the tables begun before.
    pub(super) fn forget_incomplete_tables(&mut self) {
        self.pat = sections(PatReader);
        if let Some(map) = &mut self.map {
            map.pmt = sections(PmtReader { programme: map.number });
        }
    }

    fn follow(&mut self, number: u16, pid: Pid) {
        if self.map.as_ref().is_none_or(|map| (map.number, map.pid) != (number, pid)) {
            self.map = Some(ProgrammeMap { number, pid, pmt: sections(PmtReader { programme: number }) });
            self.streams = None;
        }
    }
}

/// Collects sections from packets and lets through those whose CRC is right.
type Sections<R> = SectionPacketConsumer<
    SectionSyntaxSectionProcessor<BufferSectionSyntaxParser<CrcCheckWholeSectionSyntaxPayloadParser<R>>>,
>;

fn sections<R: WholeSectionSyntaxPayloadParser>(reader: R) -> Sections<R> {
    let checked = CrcCheckWholeSectionSyntaxPayloadParser::new(reader);
    SectionPacketConsumer::new(SectionSyntaxSectionProcessor::new(BufferSectionSyntaxParser::new(checked)))
}

struct PatReader;

impl WholeSectionSyntaxPayloadParser for PatReader {
    /// Number and PMT of the first programme.
    type Context = Option<(u16, Pid)>;

    fn section<'a>(
        &mut self,
        found: &mut Self::Context,
        header: &SectionCommonHeader,
        syntax: &TableSyntaxHeader<'a>,
        section: &'a [u8],
    ) {
        if header.table_id != PAT_TABLE_ID || !is_current(syntax) || syntax.section_number() != 0 {
            return;
        }
        *found = PatSection::new(section_body(section)).programs().find_map(|entry| match entry {
            ProgramDescriptor::Program { program_number, pid } => Some((program_number, pid)),
            ProgramDescriptor::Network { .. } => None,
        });
    }
}

struct PmtReader {
    programme: u16,
}

impl WholeSectionSyntaxPayloadParser for PmtReader {
    type Context = Option<Streams>;

    fn section<'a>(
        &mut self,
        found: &mut Self::Context,
        header: &SectionCommonHeader,
        syntax: &TableSyntaxHeader<'a>,
        section: &'a [u8],
    ) {
        if header.table_id != PMT_TABLE_ID || !is_current(syntax) || syntax.id() != self.programme {
            return;
        }
        let Ok(pmt) = PmtSection::from_bytes(section_body(section)) else { return };
        let kinds = pmt.streams().filter_map(|stream| {
            Some(Lead { pid: stream.elementary_pid(), kind: kind_of(stream.stream_type())? })
        });
        // Of equal ones the first: the muxer puts the main stream there.
        *found = Some(Streams { clock_pid: pmt.pcr_pid(), lead: kinds.min_by_key(|lead| lead.kind) });
    }
}

fn is_current(syntax: &TableSyntaxHeader<'_>) -> bool {
    syntax.current_next_indicator() == CurrentNext::Current
}

/// The CRC was checked, so both header and CRC are there.
fn section_body(section: &[u8]) -> &[u8] {
    &section[SectionCommonHeader::SIZE + TableSyntaxHeader::SIZE..section.len() - CRC_BYTES]
}

/// ISO/IEC 13818-1 table 2-34, and what ATSC, AVS, SMPTE and Blu-ray registered beside it.
fn kind_of(stream_type: StreamType) -> Option<StreamKind> {
    match u8::from(stream_type) {
        // MPEG-1, MPEG-2, MPEG-4, H.264 (with SVC, MVC), JPEG 2000, H.265, H.266, AVS 1–3, Dirac, VC-1.
        0x01 | 0x02 | 0x10 | 0x1b | 0x1f..=0x21 | 0x24 | 0x33 | 0x42 | 0xd1 | 0xd2 | 0xd4 | 0xea => {
            Some(StreamKind::Video)
        }
        // MPEG-1, MPEG-2, AAC (ADTS, LATM, raw), MPEG-H, AC-3, DTS, TrueHD, E-AC-3, DTS-HD.
        0x03 | 0x04 | 0x0f | 0x11 | 0x1c | 0x2d | 0x81..=0x88 => Some(StreamKind::Audio),
        0x06 => Some(StreamKind::Private),
        _ => None,
    }
}
