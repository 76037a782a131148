import HimixCore
import HimixCoreML
import SwiftUI

/// The bundle's self-test on this device: the exact pixels and the exact answer, or not.
struct SelfTestView: View {
    @Environment(AppModel.self) private var model
    @State private var result: SelfTestResult?
    @State private var runs = false

    var body: some View {
        NavigationStack {
            Group {
                if let opened = model.opened {
                    form(opened)
                } else {
                    WaitingView()
                }
            }
            .navigationTitle("Self-test")
        }
    }

    private func form(_ opened: OpenedModel) -> some View {
        Form {
            Section {
                Text(opened.bundle.manifest.selftest.prompt)
                Button(runs ? "Running" : "Run the self-test") { Task { await run(opened) } }
                    .disabled(runs || model.busy)
            } footer: {
                Text("An image and a question that came with the bundle, and the answer it gave when it was exported.")
            }
            if let result {
                Section {
                    Label(
                        result.passed ? "Passed" : "Failed",
                        systemImage: result.passed ? "checkmark.circle.fill" : "xmark.octagon.fill"
                    )
                    .foregroundStyle(result.passed ? .green : .red)
                    LabeledContent("Pixels", value: result.pixelsEqual ? "equal" : "differ")
                    LabeledContent("Expected", value: result.expected)
                    LabeledContent("Answer", value: result.answer)
                }
                Section("Timing") { StatsView(stats: result.stats) }
            }
        }
    }

    private func run(_ opened: OpenedModel) async {
        runs = true
        defer { runs = false }
        do {
            result = try await opened.session.selfTest(opened.bundle) { try DecodedImage.decode(fileAt: $0) }
        } catch {
            model.problem = error.localizedDescription
        }
    }
}
