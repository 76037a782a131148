import HimixCore
import HimixCoreML
import SwiftUI

/// 3 warm-ups and 20 timed questions, written as a record that `himix report` reads, to be shared.
struct BenchmarkView: View {
    @Environment(AppModel.self) private var model
    @State private var progress: Double?
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
                } else {
                    Button("Run") { Task { await run(opened) } }
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
            let benchmark = await Benchmark(opened.session, bundle: opened.bundle, items: items(opened))
            let host = BenchmarkHost.current()
            let made = try await benchmark.run(host, load: opened.load, selfTestPassed: test.passed) { share in
                Task { @MainActor in if progress != nil { progress = share } }
            }
            let url = URL.documentsDirectory.appending(path: "\(opened.bundle.manifest.name)-benchmark.json")
            try made.json().write(to: url, options: .atomic)
            (record, file) = (made, url)
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
