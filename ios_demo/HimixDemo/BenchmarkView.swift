import HimixCore
import HimixCoreML
import SwiftUI

/// 3 warm-ups and 20 timed questions, and ten minutes without a pause if wished, written as a record that `himix report`
/// reads, to be shared.
struct BenchmarkView: View {
    @Environment(AppModel.self) private var model
    private static let sustainedMinutes = 10
    @State private var progress: Double?
    @State private var running: Task<Void, Never>?
    @State private var goesOn = false
    @State private var record: Record?
    @State private var file: URL?

    var body: some View {
        NavigationStack {
            Group {
                if let opened = model.opened {
                    form(opened)
                } else {
                    WaitingView()
                }
            }
            .navigationTitle("Benchmark")
        }
    }

    private func form(_ opened: OpenedModel) -> some View {
        Form {
            Section {
                if let progress {
                    ProgressView(value: progress)
                    Button("Stop", role: .destructive) { running?.cancel() }
                } else {
                    Toggle("Go on for \(Self.sustainedMinutes) minutes without a pause", isOn: $goesOn)
                    Button("Run") { running = Task { await run(opened) } }
                        .disabled(model.busy)
                }
            } footer: {
                Text(
                    ProcessInfo.processInfo.isLowPowerModeEnabled
                        ? "Low Power Mode is on: it slows the processor, and the record will say so. Switch it off."
                        : "Keep the app in front and the phone cool. Without a photo the self-test's image is asked about."
                )
            }
            if let record {
                Section(record.verdict.rawValue) {
                    ForEach(record.reasons, id: \.self) { reason in Text(reason).font(.footnote) }
                    ForEach(record.medians, id: \.stage) { median in
                        Milliseconds(name: median.stage, value: median.milliseconds)
                    }
                }
            }
            if let file {
                ShareLink(item: file) { Label("Share the record", systemImage: "square.and.arrow.up") }
            }
        }
    }

    private func run(_ opened: OpenedModel) async {
        progress = 0
        defer { progress = nil }
        do {
            let test = try await opened.session.selfTest(opened.bundle) { try DecodedImage.decode(fileAt: $0) }
            let minutes = goesOn ? Self.sustainedMinutes : 0
            let benchmark = await Benchmark(
                opened.session, bundle: opened.bundle, items: items(opened), sustainedSeconds: Double(60 * minutes))
            let host = BenchmarkHost.current(
                command: "Benchmark tab, Run" + (minutes > 0 ? ", on for \(minutes) minutes without a pause" : ""))
            let made = try await benchmark.run(host, load: opened.load, selfTestPassed: test.passed) { share in
                Task { @MainActor in if progress != nil { progress = share } }
            }
            let url = URL.documentsDirectory.appending(path: "\(opened.bundle.manifest.name)-benchmark.json")
            try made.json().write(to: url, options: .atomic)
            (record, file) = (made, url)
        } catch is CancellationError {
            return  // Stop was pressed: no record, as nothing went wrong
        } catch {
            model.problem = error.localizedDescription
        }
    }

    private func items(_ opened: OpenedModel) -> [BenchmarkItem] {
        let question = opened.bundle.manifest.selftest
        let url = opened.bundle.url(question.image)
        let name = model.photo?.name ?? question.image
        let shipped: @Sendable () throws -> any PixelSource = { try DecodedImage.decode(fileAt: url) }
        let load = model.photo?.picture.load ?? shipped
        let prompts = ["Describe the image.", "What color is it?", "What shape is this?", question.prompt]
        return prompts.map { BenchmarkItem(name: name, prompt: $0, load: load) }
    }
}
