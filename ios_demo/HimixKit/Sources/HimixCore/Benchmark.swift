import Foundation

/// An image to be asked about in a benchmark.
public struct BenchmarkItem: Sendable {
    public let name: String
    public let prompt: String
    public let load: @Sendable () throws -> any PixelSource

    public init(name: String, prompt: String, load: @escaping @Sendable () throws -> any PixelSource) {
        (self.name, self.prompt, self.load) = (name, prompt, load)
    }
}

/// What the platform tells a benchmark.
public struct BenchmarkHost: Sendable {
    public let device: Record.Device
    public let command: String
    public let harness: String
    public let versions: [String: String]
    /// Bytes in use by this process now, and the most so far.
    public let memory: @Sendable () -> (now: UInt64?, peak: UInt64?)
    public let reading: @Sendable () async -> Record.Reading
    /// Called with true before the run, with false behind it: a screen that goes dark suspends the app.
    public let keepAwake: @Sendable (Bool) async -> Void

    public init(
        device: Record.Device, command: String, harness: String, versions: [String: String],
        memory: @escaping @Sendable () -> (now: UInt64?, peak: UInt64?),
        reading: @escaping @Sendable () async -> Record.Reading, keepAwake: @escaping @Sendable (Bool) async -> Void
    ) {
        (self.device, self.command, self.harness, self.versions) = (device, command, harness, versions)
        (self.memory, self.reading, self.keepAwake) = (memory, reading, keepAwake)
    }
}

/// Opening a bundle, timed: before a session exists.
public struct LoadFacts: Sendable {
    /// Milliseconds; files hashed, programs compiled or found compiled.
    public let milliseconds: Double
    public let baselineBytes: UInt64?

    public init(milliseconds: Double, baselineBytes: UInt64?) {
        (self.milliseconds, self.baselineBytes) = (milliseconds, baselineBytes)
    }
}

/// The measuring loop of `himix bench` on a session: warm-ups, then timed iterations, every answer compared with the
/// first one to the same question, so that a fast wrong answer cannot pass. Behind them, if asked for, questions without
/// a pause.
@Inference
public final class Benchmark {
    private let session: Session
    private let bundle: ModelBundle
    private let items: [BenchmarkItem]
    private let warmUp: Int
    private let timed: Int
    private let options: AnswerOptions
    private let newTokens: Int
    private let sustainedSeconds: Double
    private let makeClock: @Sendable () -> () -> Double
    private var samples = Record.Samples()
    private var readings: [Record.Reading] = []
    private var references: [[Int]] = []
    private var answers: [Record.Answer] = []
    private var asking = 0.0

    /// - Parameters:
    ///   - newTokens: the length of every answer; the model's stop token is passed over, as in `himix bench`.
    ///   - sustainedSeconds: how long questions go on without a pause behind the timed iterations; 0: not at all.
    public convenience init(
        _ session: Session, bundle: ModelBundle, items: [BenchmarkItem], warmUp: Int = 3, timed: Int = 20,
        newTokens: Int = 32, sustainedSeconds: Double = 0
    ) {
        self.init(
            session, bundle: bundle, items: items, warmUp: warmUp, timed: timed, newTokens: newTokens,
            sustainedSeconds: sustainedSeconds,
            makeClock: {
                let watch = Stopwatch()
                return { watch.total() / 1000 }
            })
    }

    /// With the clock of the sustained part: what `makeClock` gives tells the seconds since it was made.
    init(
        _ session: Session, bundle: ModelBundle, items: [BenchmarkItem], warmUp: Int, timed: Int,
        newTokens: Int, sustainedSeconds: Double, makeClock: @escaping @Sendable () -> () -> Double
    ) {
        (self.session, self.bundle, self.items) = (session, bundle, items)
        (self.warmUp, self.timed, self.newTokens) = (warmUp, timed, newTokens)
        (self.sustainedSeconds, self.makeClock) = (sustainedSeconds, makeClock)
        options = AnswerOptions(maxNewTokens: newTokens, temperature: 0, ignoresStop: true)
    }

    /// Run it.
    ///
    /// - Throws: `HimixError` from the session; `CancellationError` between two questions.
    public func run(
        _ host: BenchmarkHost, load: LoadFacts, selfTestPassed: Bool?, progress: @Sendable (Double) -> Void = { _ in }
    ) async throws -> Record {
        await host.keepAwake(true)
        do {
            let record = try await measure(host, load: load, selfTestPassed: selfTestPassed, progress: progress)
            await host.keepAwake(false)
            return record
        } catch {
            await host.keepAwake(false)
            throw error
        }
    }

    private func measure(
        _ host: BenchmarkHost, load: LoadFacts, selfTestPassed: Bool?, progress: @Sendable (Double) -> Void
    ) async throws -> Record {
        let started = ISO8601DateFormatter().string(from: Date())
        let clock = Stopwatch()
        samples.loadWarm = [load.milliseconds]
        await read(host, clock)
        for index in items.indices { try refer(index) }
        var measured = Stopwatch()
        let windows = sustainedSeconds > 0 ? Int(min(sustainedSeconds, 1e6) / Sustained.windowSeconds) : 0
        let all = Double(warmUp + timed + windows)
        for iteration in 0..<(warmUp + timed) {
            try Task.checkCancellation()
            if iteration == warmUp {
                await read(host, clock)
                (measured, asking) = (Stopwatch(), 0)
            }
            try ask(iteration % items.count, counted: iteration >= warmUp)
            progress(Double(iteration + 1) / all)
        }
        let wall = measured.total()
        await read(host, clock)
        let overhead = max(0, wall - asking) / wall
        let sustained = try await sustain(host, clock) { [warmUp, timed] in
            progress(min(1, Double(warmUp + timed + $0) / all))
        }
        let (verdict, reasons) = VerdictRules.judge(
            selfTestPassed: selfTestPassed, answers: answers, readings: readings,
            sustained: sustained?.readings ?? [], samples: samples, items: items.count, overhead: overhead)
        let facts = try bundleFacts()
        return Record(
            started: started, command: host.command, harness: host.harness, device: host.device, bundle: facts,
            settings: Record.Settings(
                warmUp: warmUp, timed: timed, visionTokens: session.manifest.visionTokens, newTokens: newTokens,
                provider: session.provider, ignoreStop: true, sustainedS: sustained?.seconds),
            samples: samples,
            memory: Record.Memory(
                baselineBytes: load.baselineBytes, peakBytes: host.memory().peak,
                kvCacheBytes: facts.kvBytesPerToken * facts.contextCapacity),
            readings: readings, sustained: sustained.map { Record.SustainedPart(windows: $0.windows) },
            energy: sustained.map { _ in [.untold] },
            unplugged: unplugged(readings + (sustained?.readings ?? [])),
            harnessOverhead: overhead, selfTestPassed: selfTestPassed, answers: answers,
            verdict: verdict, reasons: reasons, versions: host.versions)
    }

    /// The first run of an item: what its later ones have to equal.
    private func refer(_ index: Int) throws {
        let item = items[index]
        let (tokens, text) = try session.generate(item.prompt, images: [.pixels(item.load)], options: options).collect()
        references.append(tokens)
        answers.append(
            Record.Answer(
                prompt: item.prompt, images: [item.name], text: text, tokenIdsSha256: tokenDigest(tokens), runs: 1,
                equalRuns: 1))
    }

    /// The item with its image encoded anew, then again up to the first text with the keys and values kept.
    private func ask(_ index: Int, counted: Bool) throws {
        let watch = Stopwatch()
        let (cold, image) = try askCold(index)
        var warm: Answer?
        if let image {
            let again = try session.generate(items[index].prompt, images: [.encoded(image)], options: options)
            while again.stats.ttft == 0, try again.next() != nil {}
            warm = again
        }
        asking += watch.total()
        guard counted else { return }
        samples.preprocess.append(cold.preprocess)
        samples.visionEncoder.append(cold.visionEncoder)
        samples.visionInjector.append(cold.visionInjector)
        samples.prefill.append(cold.prefill)
        samples.ttft.append(cold.ttft)
        samples.interToken += cold.interToken
        if let warm { samples.warmTtft.append(warm.stats.ttft) }
    }

    /// The item with its image encoded anew, compared with its first run; its keys and values, if they can be kept.
    private func askCold(_ index: Int) throws -> (stats: Stats, image: ImageKV?) {
        let item = items[index]
        let chat = session.chat(images: [.pixels(item.load)])
        let answer = try chat.send(item.prompt, options: options)
        let tokens = try answer.collect().tokens
        answers[index].runs += 1
        answers[index].equalRuns += tokens == references[index] ? 1 : 0
        return (answer.stats, chat.imageKV)
    }

    /// Questions in turn until the time is over; nil if none was asked for. `progress` gets the number of windows.
    private func sustain(
        _ host: BenchmarkHost, _ clock: Stopwatch, progress: (Int) -> Void
    ) async throws -> Sustained? {
        guard sustainedSeconds > 0 else { return nil }
        var sustained = Sustained(seconds: sustainedSeconds)
        let seconds = makeClock()
        while !sustained.over {
            try Task.checkCancellation()
            let stats = try askCold(sustained.answers % items.count).stats
            let now = seconds()
            sustained.add(stats, now: now, reading: await look(host, clock))
            progress(sustained.windows.count)
        }
        return sustained
    }

    private func read(_ host: BenchmarkHost, _ clock: Stopwatch) async { readings.append(await look(host, clock)) }

    private func look(_ host: BenchmarkHost, _ clock: Stopwatch) async -> Record.Reading {
        var reading = await host.reading()
        reading.atS = clock.total() / 1000
        return reading
    }

    private func bundleFacts() throws -> Record.BundleFacts {
        let manifest = bundle.manifest
        let model = manifest.model
        return Record.BundleFacts(
            name: manifest.name, target: manifest.target, precision: manifest.quantisation.precision,
            activations: manifest.quantisation.activations, architecture: model.architecture,
            manifestSha256: try bundle.digest(), bytes: manifest.totalBytes,
            decoderBytes: (manifest.roles["decoder"] ?? []).reduce(0) { $0 + $1.bytes },
            kvBytesPerToken: 2 * model.numHiddenLayers * model.numKeyValueHeads * model.headDim * 4,
            contextCapacity: manifest.contextCapacity)
    }
}
