import HimixCore
import PhotosUI
import SwiftUI

/// A picture, a question, the answer as it comes, and what each stage took.
struct AskView: View {
    @Environment(AppModel.self) private var model
    @State private var prompt = "Describe the image."
    @State private var picked: PhotosPickerItem?
    @State private var takesPhoto = false

    var body: some View {
        NavigationStack {
            Group {
                if model.opened == nil {
                    WaitingView()
                } else {
                    form
                }
            }
            .navigationTitle("Ask")
        }
        .onChange(of: picked) { _, item in
            guard let item else { return }
            Task { await load(item) }
        }
        .fullScreenCover(isPresented: $takesPhoto) {
            CameraView { data in
                takesPhoto = false
                if let data { show(data, name: "photo.jpg") }
            }
            .ignoresSafeArea()
        }
    }

    private var form: some View {
        @Bindable var model = model
        return Form {
            Section {
                if let photo = model.photo {
                    Image(uiImage: photo.preview)
                        .resizable()
                        .scaledToFit()
                        .frame(maxHeight: 280)
                        .accessibilityLabel("The picture that is asked about")
                }
                PhotosPicker("Choose a photo", selection: $picked, matching: .images)
                if CameraView.isAvailable {
                    Button("Take a photo") { takesPhoto = true }
                }
            }
            Section {
                TextField("Your question", text: $prompt, axis: .vertical)
                    .submitLabel(.send)
                Toggle("Each question continues the conversation", isOn: $model.continues)
                if model.busy {
                    Button("Stop", role: .destructive) { model.stop() }
                } else {
                    Button("Ask") { model.ask(prompt) }
                        .disabled(prompt.isEmpty)
                }
            }
            ForEach(model.turns, id: \.id) { turn in
                Section(turn.question) {
                    Text(turn.answer.isEmpty ? "…" : turn.answer)
                        .textSelection(.enabled)
                }
            }
            if let stats = model.stats {
                Section(stats.visionEncoder > 0 ? "Timing" : "Timing, image kept from the question before") {
                    StatsView(stats: stats)
                }
            }
        }
    }

    private func load(_ item: PhotosPickerItem) async {
        do {
            guard let data = try await item.loadTransferable(type: Data.self) else {
                model.problem = "The photo could not be read."
                return
            }
            show(data, name: "photo")
        } catch {
            model.problem = error.localizedDescription
        }
    }

    private func show(_ data: Data, name: String) {
        guard let photo = Photo(data: data, name: name) else {
            model.problem = "This is not an image that can be read."
            return
        }
        model.show(photo)
    }
}

/// Milliseconds of each stage of an answer.
struct StatsView: View {
    let stats: Stats

    var body: some View {
        if stats.visionEncoder > 0 {
            Milliseconds(name: "Preprocess", value: stats.preprocess)
            Milliseconds(name: "Vision encoder", value: stats.visionEncoder)
            Milliseconds(name: "Vision injector", value: stats.visionInjector)
        }
        Milliseconds(name: "Prefill, \(stats.promptTokens) tokens", value: stats.prefill)
        Milliseconds(name: "Time to first text", value: stats.ttft)
        if !stats.interToken.isEmpty {
            Milliseconds(
                name: "A further token", value: stats.interToken.sorted()[stats.interToken.count / 2])
        }
    }
}

struct Milliseconds: View {
    let name: String
    let value: Double

    var body: some View {
        LabeledContent(name, value: value.formatted(.number.precision(.fractionLength(1))) + " ms")
            .monospacedDigit()
    }
}
