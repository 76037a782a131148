/// Questions without a pause, in windows of ten seconds: how fast a device still is when it is warm.
///
/// It has no clock of its own: seconds are since the first question began.
struct Sustained {
    static let windowSeconds = 10.0

    let seconds: Double
    private(set) var windows: [Record.Window] = []
    /// All readings, one behind each answer; a window keeps its last one.
    private(set) var readings: [Record.Reading] = []
    private(set) var over = false
    private var began = 0.0
    private var ttfts: [Double] = []
    private var steps: [Double] = []
    private var tokens = 0

    init(seconds: Double) { self.seconds = seconds }

    /// Answers so far.
    var answers: Int { readings.count }

    /// An answer that ended `now`, and how the device was doing then. A window is closed at the end of an answer.
    mutating func add(_ stats: Stats, now: Double, reading: Record.Reading) {
        readings.append(reading)
        ttfts.append(stats.ttft)
        steps += stats.interToken
        tokens += stats.newTokens
        over = now >= seconds
        guard over || now - began >= Self.windowSeconds else { return }
        let stepping = steps.reduce(0, +)
        windows.append(
            Record.Window(
                atS: began, seconds: now - began, answers: ttfts.count, tokens: tokens,
                tokensPerS: stepping > 0 ? 1000 * Double(steps.count) / stepping : nil, ttftMs: median(ttfts),
                reading: reading))
        (began, ttfts, steps, tokens) = (now, [], [], 0)
    }
}
