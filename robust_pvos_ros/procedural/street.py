"""The street scene of the demo: cars, pedestrians, a look-alike, occlusions and rain, with the truth for every frame.

A camera on a slowly rolling vehicle looks across a street.  Everything is drawn from sprites that are rendered once
(``street_cars``, ``street_people``, ``street_props``) over backgrounds that are painted once (``street_houses``,
``street_ground``); a frame only places them.  ``street_script`` says who moves when.
"""

from __future__ import annotations

import cv2
import numpy as np

from robust_pvos_ros.procedural import street_draw as draw
from robust_pvos_ros.procedural import street_script as script
from robust_pvos_ros.procedural.street_car_models import VAN, CarModel
from robust_pvos_ros.procedural.street_cars import render_view, render_wheel
from robust_pvos_ros.procedural.street_draw import Sprite, StreetCamera
from robust_pvos_ros.procedural.street_ground import FRONTS, paint_ground
from robust_pvos_ros.procedural.street_houses import paint_fronts, paint_sky
from robust_pvos_ros.procedural.street_people import PHASES, render_walker, walking_phase
from robust_pvos_ros.procedural.street_props import render_bollard, render_lamp_post, render_sign, render_tree
from robust_pvos_ros.procedural.street_script import SceneObject, Vehicle, Walker
from robust_pvos_ros.procedural.street_weather import Rain, grade

VIEW_STEP = 0.1  # tangent of the viewing direction between two pictures of a car ...
CLOSE_VIEW_STEP = 0.045  # ... and of the van, which is near
YAW_STEP = np.pi / 12
SUN_LEAN = (0.5, -0.25)  # metres that the shadow of one metre of height reaches in x and z


class StreetScene:
    """A scripted street scene.

    Args:
        width, height: image size, pixels.
        seed: varies houses, sky, trees, dyes and rain, not the script.
        prepare: render every picture of the script at once (some seconds); otherwise a frame waits for what it needs.

    Attributes:
        objects: every object that has a mask, in ascending ID.
        duration: length of the script, seconds.
    """

    def __init__(self, width: int = 640, height: int = 480, seed: int = 0, prepare: bool = True) -> None:
        if width < 64 or height < 48:
            raise ValueError(f'the street scene needs an image of at least 64x48 pixels, got {width}x{height}')
        self.width, self.height, self.duration = width, height, script.DURATION
        rng = np.random.default_rng(seed)
        self._seed = seed
        self._zoom = width / 640
        self._vehicles, self._walkers = script.cast(rng)
        self.objects: tuple[SceneObject, ...] = script.scene_objects()
        positions = [x for _, x in script.CAMERA_PATH.points]
        self._middle, self._travel = (min(positions) + max(positions)) / 2, (max(positions) - min(positions)) / 2
        self._paint_background(rng)
        self._props = self._render_props(rng)
        self._rain = Rain(width, height, self._ground.first_row, rng)
        self._views: dict[tuple[CarModel, draw.Colour, int, int], Sprite] = {}
        self._wheels = {
            model: render_wheel(model.wheel_radius, 70 * self._zoom) for model in {v.model for v in self._vehicles}
        }
        self._walks: dict[tuple[int, int, int, bool], Sprite] = {}
        self._headlight = draw.make_glow((255, 244, 214))
        self._lantern = draw.make_glow((255, 196, 110))
        self._tail_light = draw.make_glow((255, 40, 30))
        if prepare:
            self._prepare_sprites()

    def frame(self, t_seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """The scene at a time; times outside [0, duration] show its ends.

        Returns:
            (uint8 RGB (H, W, 3), uint16 (H, W) with the object ID of each pixel, 0 where there is none).
        """
        time = float(np.clip(t_seconds, 0.0, self.duration))
        camera = self.camera(time)
        wet = script.RAIN(time)
        image = self._background(camera, time, wet)
        labels = np.zeros((self.height, self.width), np.uint16)
        sunshine = 1 - script.CLOUDS(time)
        vehicles = [(vehicle, vehicle.x(time)) for vehicle in self._vehicles]
        walkers = [(walker, walker.x(time), walker.z(time)) for walker in self._walkers]
        for vehicle, x in vehicles:
            self._draw_vehicle_shade(image, camera, vehicle, x, sunshine)
        for walker, x, z in walkers:
            sprite = self._walk(walker, time, camera.scale_at(z))
            if wet > 0.02:
                draw.draw_mirror_image(image, sprite, camera.project(x, 0, z), camera.scale_at(z), 0.38 * wet)
            self._draw_walker_shade(image, camera, sprite, x, z, sunshine)
        things = [(vehicle.axis, 0, index) for index, (vehicle, _) in enumerate(vehicles)]
        things += [(z, 1, index) for index, (_, _, z) in enumerate(walkers)]
        things += [(prop.z, 2, index) for index, (prop, _) in enumerate(self._props)]
        for depth, kind, index in sorted(things, reverse=True):
            if kind == 0:
                self._draw_vehicle(image, labels, camera, *vehicles[index], wet)
                self._draw_lights(image, camera, vehicles[index][0], time, wet)
            elif kind == 1:
                walker, x, z = walkers[index]
                sprite = self._walk(walker, time, camera.scale_at(z))
                draw.draw_sprite(image, sprite, camera.project(x, 0, z), camera.scale_at(z), labels, walker.who.id)
            else:
                prop, sprite = self._props[index]
                wind = (0.006 + 0.012 * wet) * np.sin(1.7 * time + prop.x) if 'tree' in prop.kind else 0.0
                draw.draw_sprite(image, sprite, camera.project(prop.x, 0, depth), camera.scale_at(depth), labels, 0,
                                 wind)
                if prop.kind == 'lamp':
                    self._draw_lantern(image, camera, prop, time)
        image = grade(image, 0.35 * script.CLOUDS(time) + 0.65 * wet)
        self._rain.draw(image, time, wet)
        return image, labels

    def camera(self, time: float) -> StreetCamera:
        """The camera at a time, with the vibration of its vehicle."""
        du = 0.5 * np.sin(7.1 * time) + 0.35 * np.sin(12.7 * time + 1.0)
        dv = 0.55 * np.sin(9.3 * time + 0.5) + 0.35 * np.sin(15.1 * time)
        sway = (float(du) * self._zoom, float(dv) * self._zoom)
        return StreetCamera(self.width, self.height, script.CAMERA_PATH(time), sway)

    # Painting and rendering once.

    def _paint_background(self, rng: np.random.Generator) -> None:
        middle = StreetCamera(self.width, self.height, self._middle)
        scale = middle.scale_at(FRONTS)
        self._front_left = -self.width / 2 / scale - self._travel - 0.5
        rows = int(middle.project(0, 0, FRONTS)[1]) + 6
        self._fronts, self._window_glow = paint_fronts(-2 * self._front_left, 9.5, scale, rng)
        sky_width = self.width + int(30 * self._zoom)
        self._sky = paint_sky(sky_width, rows, rows, rng, overcast=False)
        self._dull_sky = paint_sky(sky_width, rows, rows, rng, overcast=True)
        trees = [(p.x, p.z, 1.6) for p in script.PROPS if p.kind == 'tree']
        trees += [(p.x, p.z, 1.1) for p in script.PROPS if p.kind == 'small_tree']
        self._ground = paint_ground(middle, self._travel, trees, rng)

    def _render_props(self, rng: np.random.Generator) -> list[tuple[script.Prop, Sprite]]:
        rendered = []
        for prop in script.PROPS:
            resolution = 1.06 * 0.9375 * self.width / prop.z
            if prop.kind == 'tree':
                sprite = render_tree(rng, resolution, 5.0, 1.5, 0.36)
            elif prop.kind == 'small_tree':
                sprite = render_tree(rng, resolution, 4.4, 1.35, 0.26, (96, 126, 58))
            else:
                renderers = {'lamp': render_lamp_post, 'bollard': render_bollard, 'sign': render_sign}
                sprite = renderers[prop.kind](resolution)
            rendered.append((prop, sprite))
        return rendered

    def _prepare_sprites(self) -> None:
        """Render every picture that the script needs, so that no frame has to wait for one."""
        for time in np.arange(0, self.duration + 0.01, 1 / 30):
            camera = self.camera(time)
            for vehicle in self._vehicles:
                x = vehicle.x(time)
                if self._in_view(camera, x, vehicle.axis, vehicle.model.length / 2 + 1):
                    self._car_views(vehicle, (x - camera.x) / vehicle.axis)
            for walker in self._walkers:
                z = walker.z(time)
                if self._in_view(camera, walker.x(time), z, 1.0):
                    self._walk(walker, time, camera.scale_at(z))

    @staticmethod
    def _in_view(camera: StreetCamera, x: float, z: float, half_width: float) -> bool:
        return abs(x - camera.x) < camera.width / 2 / camera.scale_at(z) + half_width

    def _car_views(self, vehicle: Vehicle, tangent: float) -> tuple[Sprite, Sprite, float]:
        """The two pictures between whose viewing directions a car is seen, and the weight of the second."""
        position = vehicle.heading * tangent / _view_step(vehicle.model)
        first = int(np.floor(position))
        return self._view(vehicle, first), self._view(vehicle, first + 1), position - first

    def _view(self, vehicle: Vehicle, step: int) -> Sprite:
        kind = (vehicle.model, vehicle.paint, step)
        if (*kind, script.RIGHT) not in self._views:
            resolution = (78 if vehicle.model is VAN else 62) * self._zoom
            tangent = step * _view_step(vehicle.model)
            self._views[(*kind, script.RIGHT)] = render_view(vehicle.model, vehicle.paint, tangent, resolution)
        if (*kind, vehicle.heading) not in self._views:
            self._views[(*kind, script.LEFT)] = self._views[(*kind, script.RIGHT)].mirrored()
        return self._views[(*kind, vehicle.heading)]

    def _walk(self, walker: Walker, time: float, scale: float) -> Sprite:
        """Picture of a walker; far away a smaller one, so that reducing it does not shimmer."""
        distance = (abs(walker.x(time) - walker.x.points[0][1]) + abs(walker.z(time) - walker.z.points[0][1]))
        phase = round(walking_phase(distance, walker.look) / (2 * np.pi) * PHASES) % PHASES
        yaw = round(walker.yaw(time) / YAW_STEP)
        large = scale > 60 * self._zoom
        key = (walker.who.id, phase, yaw, large)
        if key not in self._walks:
            resolution = (92 if large else 48) * self._zoom
            self._walks[key] = render_walker(walker.look, phase * 2 * np.pi / PHASES, yaw * YAW_STEP, resolution,
                                             self._seed)
        return self._walks[key]

    # Placing for every frame.

    def _background(self, camera: StreetCamera, time: float, wet: float) -> np.ndarray:
        clouds = script.CLOUDS(time)
        image = np.empty((self.height, self.width, 3), np.uint8)
        rows = self._sky.shape[0]
        sky = self._sky if clouds <= 0 else self._dull_sky if clouds >= 1 else cv2.addWeighted(
            self._sky, 1 - clouds, self._dull_sky, clouds, 0)
        drift = -(camera.x - self._middle) * 2.0 * self._zoom - 15 * self._zoom
        cv2.warpAffine(sky, np.array([[1.0, 0, drift + camera.sway[0]], [0, 1, camera.sway[1]]]), (self.width, rows),
                       dst=image[:rows], borderMode=cv2.BORDER_REPLICATE)
        u, v = camera.project(self._front_left + self._middle, 0, FRONTS)
        matrix = np.array([[1.0, 0, u], [0, 1, v - self._fronts.shape[0]]])
        box = (0, 0, self.width, rows)
        draw.blend_patch(image[:rows], draw.warp_into(self._fronts, matrix, box))
        if clouds > 0.02:
            glow = draw.warp_into(self._window_glow, matrix, box)
            cv2.add(image[:rows], cv2.convertScaleAbs(glow, alpha=clouds), dst=image[:rows])
        self._draw_ground(image, camera, wet)
        return image

    def _draw_ground(self, image: np.ndarray, camera: StreetCamera, wet: float) -> None:
        ground = self._ground
        top = ground.first_row
        size = (self.width, self.height - top)
        picture = ground.dry if wet <= 0 else ground.wet if wet >= 1 else cv2.addWeighted(
            ground.dry, 1 - wet, ground.wet, wet, 0)
        matrix = ground.matrix(camera)
        below = cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        if wet > 0.02:
            mirrored = cv2.blur(cv2.flip(image[max(0, 2 * top - self.height):top], 0), (3, 19))
            mirrored = cv2.resize(mirrored, size) if mirrored.shape[0] != size[1] else mirrored
            gloss = cv2.convertScaleAbs(cv2.warpAffine(ground.gloss, matrix, size), alpha=wet)
            weighted = cv2.multiply(mirrored, cv2.cvtColor(gloss, cv2.COLOR_GRAY2RGB), scale=1 / 255)
            draw.blend_patch(below, cv2.merge([*cv2.split(weighted), gloss]))
        image[top:] = below

    def _draw_vehicle_shade(
        self, image: np.ndarray, camera: StreetCamera, vehicle: Vehicle, x: float, sunshine: float,
    ) -> None:
        model = vehicle.model
        if not self._in_view(camera, x, vehicle.axis, model.length / 2 + 1):
            return
        half, side = model.length / 2, model.width / 2
        base = [(x + sx * half * 0.97, vehicle.axis + sz * side * 0.97) for sx in (-1, 1) for sz in (-1, 1)]
        foot = np.array([camera.project(px, 0, pz) for px, pz in base])
        if sunshine > 0.02:
            lean_x, lean_z = (SUN_LEAN[0] * model.height, SUN_LEAN[1] * model.height)
            roof = np.array([camera.project(x + (px - x) * 0.72 + lean_x, 0, pz + lean_z) for px, pz in base])
            draw.draw_ground_shade(image, np.concatenate([foot, roof]), max(2, int(4 * self._zoom)), 0.5 * sunshine)
        draw.draw_ground_shade(image, foot, max(2, int(6 * self._zoom)), 0.62)

    def _draw_walker_shade(
        self, image: np.ndarray, camera: StreetCamera, sprite: Sprite, x: float, z: float, sunshine: float,
    ) -> None:
        scale = camera.scale_at(z)
        foot = camera.project(x, 0, z)
        ring = np.linspace(0, 2 * np.pi, 12)
        contact = np.column_stack([foot[0] + 0.26 * scale * np.cos(ring), foot[1] + 0.07 * scale * np.sin(ring)])
        draw.draw_ground_shade(image, contact, max(2, int(0.05 * scale)), 0.5)
        if sunshine > 0.02:
            tip = camera.project(x + SUN_LEAN[0], 0, z + SUN_LEAN[1])
            lean = ((tip[0] - foot[0]) / scale, (tip[1] - foot[1]) / scale)
            draw.draw_cast_shadow(image, sprite, foot, scale, lean, 0.45 * sunshine)

    def _draw_vehicle(
        self, image: np.ndarray, labels: np.ndarray, camera: StreetCamera, vehicle: Vehicle, x: float, wet: float,
    ) -> None:
        model = vehicle.model
        if not self._in_view(camera, x, vehicle.axis, model.length / 2 + 1):
            return
        near = vehicle.axis - model.width / 2
        scale, foot = camera.scale_at(near), camera.project(x, 0, near)
        first, second, weight = self._car_views(vehicle, (x - camera.x) / vehicle.axis)
        if wet > 0.02:
            draw.draw_mirror_image(image, first, foot, scale, 0.34 * wet)
        matrices = draw.morph_placements(first, second, weight, foot, scale)
        boxes = [draw.visible_box(m, s.rgba, image) for m, s in zip(matrices, (first, second))]
        seen = [box for box in boxes if box is not None]
        if not seen:
            return
        corners = np.array(seen)
        box = (int(corners[:, 0].min()), int(corners[:, 1].min()), int(corners[:, 2].max()), int(corners[:, 3].max()))
        patch = cv2.addWeighted(draw.warp_into(first.rgba, matrices[0], box), 1 - weight,
                                draw.warp_into(second.rgba, matrices[1], box), weight, 0)
        draw.blend_patch(draw.part_of(image, box), patch)
        draw.part_of(labels, box)[patch[..., 3] > 127] = vehicle.who.id
        wheel = self._wheels[model]
        for axle in model.wheels:
            hub = camera.project(x + vehicle.heading * axle, model.wheel_radius, near)
            self._draw_wheel(image, labels, wheel, hub, scale, x / model.wheel_radius, vehicle.who.id)

    @staticmethod
    def _draw_wheel(
        image: np.ndarray, labels: np.ndarray, wheel: Sprite, hub: tuple[float, float], scale: float, angle: float,
        object_id: int,
    ) -> None:
        factor = scale / wheel.pixels_per_metre
        cosine, sine = factor * np.cos(angle), factor * np.sin(angle)
        ax, ay = wheel.anchor
        matrix = np.array([[cosine, -sine, hub[0] - cosine * ax + sine * ay],
                           [sine, cosine, hub[1] - sine * ax - cosine * ay]])
        box = draw.visible_box(matrix, wheel.rgba, image)
        if box is not None:
            patch = draw.warp_into(wheel.rgba, matrix, box)
            draw.blend_patch(draw.part_of(image, box), patch)
            draw.part_of(labels, box)[patch[..., 3] > 127] = object_id

    def _draw_lights(
        self, image: np.ndarray, camera: StreetCamera, vehicle: Vehicle, time: float, wet: float,
    ) -> None:
        """Headlights and tail lights in the rain, and the brake lights of a car that slows down or waits."""
        if not vehicle.lights:
            return
        x, near, end = vehicle.x(time), vehicle.axis - vehicle.model.width / 2, 0.47 * vehicle.model.length
        scale = camera.scale_at(near)
        speed, before = abs(vehicle.x.speed(time)), abs(vehicle.x.speed(time - 0.2))
        braking = speed < 0.1 or speed < before - 0.12
        front = camera.project(x + vehicle.heading * end, 0.7, near)
        rear = camera.project(x - vehicle.heading * end, 0.8, near)
        draw.draw_glow(image, self._headlight, front, 0.7 * scale, wet)
        draw.draw_glow(image, self._tail_light, rear, 0.5 * scale, 0.9 if braking else 0.5 * wet)
        if wet > 0.02:
            draw.draw_glow(image, self._headlight, (front[0], front[1] + 1.3 * scale), 0.75 * scale, 0.35 * wet)

    def _draw_lantern(self, image: np.ndarray, camera: StreetCamera, prop: script.Prop, time: float) -> None:
        position = camera.project(prop.x, 4.0, prop.z)
        draw.draw_glow(image, self._lantern, position, 1.1 * camera.scale_at(prop.z), 1.1 * script.CLOUDS(time) - 0.3)


def _view_step(model: CarModel) -> float:
    return CLOSE_VIEW_STEP if model is VAN else VIEW_STEP
