import SwiftUI

struct RootView: View {
    @Environment(AppModel.self) private var model

    var body: some View {
        @Bindable var model = model
        TabView {
            AskView().tabItem { Label("Ask", systemImage: "questionmark.bubble") }
            SelfTestView().tabItem { Label("Self-test", systemImage: "checkmark.seal") }
            BenchmarkView().tabItem { Label("Benchmark", systemImage: "stopwatch") }
            BundleView().tabItem { Label("Bundle", systemImage: "shippingbox") }
        }
        .alert("That did not work", isPresented: $model.hasProblem) {
            Button("OK") { model.problem = nil }
        } message: {
            Text(model.problem ?? "")
        }
    }
}

/// What a screen shows while there is no model to use.
struct WaitingView: View {
    @Environment(AppModel.self) private var model

    var body: some View {
        switch model.phase {
        case .empty:
            ContentUnavailableView(
                "No bundle", systemImage: "shippingbox",
                description: model.note.map { Text($0) }
                    ?? Text("Pick a folder made by `himix export --target coreml` on the Bundle tab."))
        case .opening(let share):
            VStack(spacing: 12) {
                ProgressView(value: share)
                Text(share < 1 ? "Checking the bundle's files" : "Core ML compiles the model, once for this device")
                    .font(.footnote)
                    .foregroundStyle(.secondary)
            }
            .padding()
        case .ready:
            EmptyView()
        }
    }
}
